//! Edits of the configuration between two lives, and where its inputs and outputs stand then: sources keep the places they had in the first
//! one, and so do sinks; one for an output that is added later comes behind those there were. The core goes by the configuration of the day.

use weir_engine::{operators::expr::Expr, spec::EngineSpec};

use super::{
    plan::{self, DEDUPS, Plan},
    world::{self, MS, Random},
};

/// Where inputs and outputs of a configuration stood in the first one, or came in later.
#[derive(Clone, Debug)]
pub struct Order {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    names: Vec<String>,
    /// Outputs there were so far.
    pub sinks: usize,
}

impl Order {
    /// Of the first configuration.
    pub fn first(first: &EngineSpec) -> Self {
        Self {
            inputs: (0..first.inputs.len()).collect(),
            outputs: (0..first.outputs.len()).collect(),
            names: first.outputs.iter().map(|o| o.name.clone()).collect(),
            sinks: first.outputs.len(),
        }
    }

    /// Of the configuration that comes next. An output that comes back is another.
    pub fn next(&self, first: &EngineSpec, now: &EngineSpec) -> Self {
        let input = |name: &str| first.inputs.iter().position(|i| i.name == name).expect("edits drop no input");
        let mut sinks = self.sinks;
        let mut output = |name: &str| {
            let known = self.names.iter().position(|n| n == name).map(|at| self.outputs[at]);
            known.unwrap_or_else(|| {
                sinks += 1;
                sinks - 1
            })
        };
        Self {
            inputs: now.inputs.iter().map(|i| input(&i.name)).collect(),
            outputs: now.outputs.iter().map(|o| output(&o.name)).collect(),
            names: now.outputs.iter().map(|o| o.name.clone()).collect(),
            sinks,
        }
    }

    /// Sinks that have an output, in order.
    pub fn in_force(&self) -> Vec<usize> {
        let mut sinks = self.outputs.clone();
        sinks.sort_unstable();
        sinks
    }

    /// Sinks and names of outputs that another configuration does not have.
    pub fn without<'a>(&'a self, now: &'a EngineSpec) -> impl Iterator<Item = (usize, &'a str)> {
        let gone = self.names.iter().zip(&self.outputs).filter(|(name, _)| now.outputs.iter().all(|o| o.name != **name));
        gone.map(|(name, sink)| (*sink, name.as_str()))
    }

    /// Place of the core's input.
    pub fn source(&self, input: u16) -> usize {
        self.inputs[usize::from(input)]
    }

    /// Place of the core's output.
    pub fn sink(&self, output: u16) -> usize {
        self.outputs[usize::from(output)]
    }

    /// The core's number of an input.
    pub fn input(&self, source: usize) -> u16 {
        self.inputs.iter().position(|i| *i == source).expect("every source has an input") as u16
    }

    /// The core's number of an output.
    pub fn output(&self, sink: usize) -> u16 {
        self.outputs.iter().position(|o| *o == sink).expect("every sink has an output") as u16
    }

    /// A route with the bits of the first configuration.
    pub fn route(&self, route: u64) -> u64 {
        let bits = self.outputs.iter().enumerate().filter(|(now, _)| route >> now & 1 == 1);
        bits.fold(0, |all, (_, place)| all | 1 << place)
    }
}

/// Another configuration: one or two things are not as they were.
pub fn edit(spec: &EngineSpec, plan: &Plan, random: &mut Random) -> EngineSpec {
    let mut spec = spec.clone();
    let changes = if plan.changing { [9, 9, 9, 10, 10, 10].as_slice() } else { &[] };
    let kinds: Vec<u64> = (0..8).chain(plan.dedup.then_some(8)).chain(changes.iter().copied()).chain(plan.narrow.then_some(11)).collect();
    for _ in 0..=random.below(2) {
        match kinds[random.below(kinds.len() as u64) as usize] {
            // Edge actions stay behind the outputs.
            0 => {
                let plain = spec.outputs.iter().filter(|o| !o.edge).count();
                spec.outputs[..plain].rotate_left(1);
            }
            1 => spec.inputs.rotate_left(1),
            2 => spec.windows[0].allowed_lateness = [0, 1000 * MS, 5000 * MS][random.below(3) as usize],
            3 => spec.windows[1].lateness = [0, 100 * MS, 1000 * MS][random.below(3) as usize],
            4 => {
                let every = [500, 700, 1000][random.below(3) as usize] * MS;
                (spec.windows[0].every, spec.windows[0].period) = (every, every * (1 + random.below(2) as i64));
            }
            5 => {
                spec.alerts[0].when = Expr::parse(["a > 80", "a > 70"][random.below(2) as usize]).expect("a condition");
            }
            6 => (spec.alerts[0].keep, spec.alerts[0].for_) = (random.below(300) as i64 * MS, random.below(2) as i64 * 100 * MS),
            8 => {
                let inputs = spec.inputs.iter_mut().filter(|i| DEDUPS.iter().any(|d| i.name == world::input_name(*d)));
                // One that has none forgets.
                inputs.for_each(|input| input.dedup = if random.once_in(4) { None } else { Some(plan::dedup(random)) });
            }
            // All but one can go.
            9 => {
                let place = random.below(spec.outputs.len() as u64) as usize;
                if spec.outputs[place].name != "all" {
                    spec.outputs.remove(place);
                }
            }
            // One comes, or comes back, or one like it comes under another name.
            10 => add(&mut spec, random),
            11 => spec.limits.panes_bytes_max = plan::narrow(random),
            _ => spec.storage.commit_interval = (5 + random.below(40) as i64) * MS,
        }
    }
    spec.alerts[0].edge_actions = spec.outputs.iter().enumerate().filter(|(_, o)| o.edge).fold(0, |all, (place, _)| all | 1 << place);
    spec
}

fn add(spec: &mut EngineSpec, random: &mut Random) {
    let name = ["some", "more", "late", "webhook", "some.2", "webhook.2"][random.below(6) as usize];
    let output = world::output(name);
    if spec.outputs.iter().any(|o| o.name == name) {
        return;
    }
    let behind = if output.edge { spec.outputs.len() } else { random.below(2) as usize };
    spec.outputs.insert(behind, output);
}

#[cfg(test)]
mod tests {
    use weir_engine::spec::Durability;

    use super::*;
    use crate::world;

    #[test]
    fn places_are_those_of_the_first_configuration() {
        let first = world::spec(Durability::Power);
        let mut now = first.clone();
        now.outputs[..3].rotate_left(1);
        now.inputs.rotate_left(2);
        let order = Order::first(&first).next(&first, &now);
        assert_eq!((order.source(0), order.input(2)), (2, 0));
        assert_eq!((order.sink(0), order.output(1)), (1, 0));
        assert_eq!(order.route(0b1001), 0b1010);
    }

    #[test]
    fn an_output_that_comes_back_is_another() {
        let first = world::spec(Durability::Power);
        let mut without = first.clone();
        let some = without.outputs.remove(1);
        let order = Order::first(&first).next(&first, &without);
        assert_eq!((order.sink(1), order.in_force()), (2, vec![0, 2, 3]));
        let mut with = without.clone();
        with.outputs.insert(0, some);
        let order = order.next(&first, &with);
        assert_eq!((order.sink(0), order.sink(1), order.in_force()), (4, 0, vec![0, 2, 3, 4]));
    }
}

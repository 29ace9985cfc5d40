//! Edits of the configuration between two lives, and where its inputs and outputs stand then: sources and sinks keep the places they had
//! in the first one, the core goes by that of the day.

use weir_engine::{operators::expr::Expr, spec::EngineSpec};

use super::{
    plan::{self, DEDUPS, Plan},
    world::{self, MS, Random},
};

/// Where inputs and outputs of a configuration stood in the first one.
#[derive(Clone, Debug)]
pub struct Order {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

impl Order {
    /// Of the configuration in force.
    pub fn of(first: &EngineSpec, now: &EngineSpec) -> Self {
        let place = |names: Vec<&str>, name: &str| names.iter().position(|n| *n == name).expect("edits drop no input and no output");
        let inputs = || first.inputs.iter().map(|i| i.name.as_str()).collect();
        let outputs = || first.outputs.iter().map(|o| o.name.as_str()).collect();
        Self {
            inputs: now.inputs.iter().map(|i| place(inputs(), &i.name)).collect(),
            outputs: now.outputs.iter().map(|o| place(outputs(), &o.name)).collect(),
        }
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
    let kinds: Vec<u64> = (0..8).chain(plan.dedup.then_some(8)).collect();
    for _ in 0..=random.below(2) {
        match kinds[random.below(kinds.len() as u64) as usize] {
            // Edge actions stay behind the outputs.
            0 => spec.outputs[..3].rotate_left(1),
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
            _ => spec.storage.commit_interval = (5 + random.below(40) as i64) * MS,
        }
    }
    spec
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
        let order = Order::of(&first, &now);
        assert_eq!((order.source(0), order.input(2)), (2, 0));
        assert_eq!((order.sink(0), order.output(1)), (1, 0));
        assert_eq!(order.route(0b1001), 0b1010);
    }
}

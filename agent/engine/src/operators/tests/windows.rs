//! Windows: closing, lateness, idleness, revisions, hopping, groups, fields, bounds.

use super::*;

#[test]
fn a_window_closes_when_the_watermark_reaches_its_end() {
    let mut world = World::new(spec(vec![WindowSpec { lateness: 2 * S, ..window() }], vec![]));
    world.now = 100;
    world.batch(&["p m,d=a t=1 1", "p m,d=a t=2 9", "p m,d=a t=4 11"]);
    assert_eq!(world.take(), Vec::<String>::new());
    world.batch(&["p m,d=a t=8 12"]);
    assert_eq!(world.take(), ["m,d=a t_count=2i,t_sum=3 0"]);
    assert_eq!((world.counts("w").first, world.counts("w").applied), (1, 4));
}

//! One play: a seed, a number of steps, and the quiet end.

use super::judge::Verb;
use super::world::{Faults, World, first_wall};
use super::{checks, operations, others, quiet};
use chrono::TimeDelta;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// What happened, in numbers: the same for the same seed.
pub struct Summary {
    done: u64,
    failed: u64,
    died: u64,
    points: u64,
    days: i64,
    fingerprint: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { done, failed, died, points, days, fingerprint } = self;
        write!(
            f,
            "commands: {done} done, {failed} failed, {died} killed at one of {points} events; {days} days; {fingerprint:016x}"
        )
    }
}

/// Plays; the error is the report of the first violation.
pub fn play(seed: u64, steps: u64) -> Result<Summary, String> {
    let world = World::new(seed);
    others::legacy(&world);
    let first_day = world.now();
    let mut summary = Summary { done: 0, failed: 0, died: 0, points: 0, days: 0, fingerprint: 0 };
    let mut fingerprint = DefaultHasher::new();
    for number in 1..=steps {
        let begun = world.now();
        let result = step(&world, number);
        if let Some(result) = result {
            match result.split(':').next() {
                Some("failed") => summary.failed += 1,
                Some("died") => summary.died += 1,
                _ => summary.done += 1,
            }
        }
        (world.elapsed.get(), world.points_passed.get()).hash(&mut fingerprint);
        checks::after_step(&world, begun);
        report(&world, &format!("step {number}"))?;
    }
    summary.points = world.points_passed.get();
    summary.days = (world.now() - first_day).num_days();
    summary.fingerprint = fingerprint.finish();
    quiet::settle(&world);
    report(&world, "the quiet end")?;
    Ok(summary)
}

fn report(world: &World, when: &str) -> Result<(), String> {
    let violations = world.violations.borrow();
    if violations.is_empty() {
        return Ok(());
    }
    let kept = std::env::var_os("SIMULATION_KEEP").map(|path| {
        std::process::Command::new("cp").arg("-a").arg(world.path("")).arg(path).status().ok();
    });
    let _ = kept;
    Err(format!("at {when}:\n  {}\nthe last steps:\n{}", violations.join("\n  "), world.last_steps(20)))
}

/// One step: a command, or somebody else, or time.
fn step(world: &World, number: u64) -> Option<String> {
    world.touched.borrow_mut().clear();
    world.asked_days.borrow_mut().clear();
    let kind = world.rng.borrow_mut().weighted(&[55, 14, 6, 14, 10, 2, 1, 3]);
    if kind == 0 {
        let faults = draw_faults(world);
        let (verb, name) = Verb::draw(world);
        world.note(|| format!("{number}. {verb:?} {name}{faults}"));
        world.faults.replace(faults);
        let result = operations::step(world, &verb, &name);
        world.note(|| format!("    {result}"));
        world.faults.replace(Faults::default());
        let pause = world.rng.borrow_mut().early(14);
        world.pass(Duration::from_millis(pause));
        return Some(result);
    }
    let what = [
        "",
        "an engine",
        "an engine without the lock",
        "by hand",
        "time",
        "a copy is kept",
        "an older copy",
        "all is set right by hand",
    ][kind];
    world.note(|| format!("{number}. {what}"));
    match kind {
        1 => others::with_lock(world),
        2 => others::without_lock(world, false),
        3 => others::by_hand(world),
        4 => time(world),
        5 => others::keep_copy(world),
        // Else what went wrong early would stay so, and most of the play would be refusals.
        7 if !world.is_busy() => {
            world.finish_half_written();
            quiet::set_right_by_hand(world);
            world.wall.set(first_wall());
        }
        7 => {}
        _ => others::without_lock(world, true),
    }
    None
}

fn time(world: &World) {
    let (kind, amount) = {
        let mut rng = world.rng.borrow_mut();
        (rng.weighted(&[40, 20, 12, 2, 40]), rng.early(6))
    };
    let amount = i64::try_from(amount).unwrap();
    let jump = match kind {
        0 => {
            world.pass(Duration::from_secs(3600 * amount.unsigned_abs()));
            TimeDelta::zero()
        }
        1 => TimeDelta::hours(amount),
        2 => -TimeDelta::hours(amount),
        // Days go by: what is not paid for comes to its end, and its grace period too.
        4 => {
            world.pass(Duration::from_secs(3600 * 4 * amount.unsigned_abs()));
            TimeDelta::zero()
        }
        _ => TimeDelta::days(30 * amount) * if amount % 2 == 0 { 1 } else { -1 },
    };
    // Somebody sets the clock.
    world.wall.set(world.wall.get() + jump);
    world.note(|| format!("    it is {}", world.now()));
}

/// Half of the commands run undisturbed; the others meet one or several of the faults.
fn draw_faults(world: &World) -> Faults {
    let mut rng = world.rng.borrow_mut();
    let mut faults = Faults::default();
    if rng.chance(450) {
        return faults;
    }
    if rng.chance(350) {
        faults.die = Some(rng.early(7));
    }
    if rng.chance(120) {
        faults.error = Some(rng.early(6));
    }
    if rng.chance(80) {
        faults.signal = Some(rng.early(7));
    }
    if rng.chance(60) {
        faults.disk_full = Some(rng.early(4));
    }
    if rng.chance(300) {
        faults.agent = *rng.pick(&[10, 50, 200]).unwrap();
    }
    if rng.chance(200) {
        faults.api = *rng.pick(&[30, 150, 1000]).unwrap();
    }
    if rng.chance(300) {
        faults.terraform = *rng.pick(&[200, 700]).unwrap();
    }
    if rng.chance(350) {
        faults.others = *rng.pick(&[10, 30, 100]).unwrap();
    }
    faults
}

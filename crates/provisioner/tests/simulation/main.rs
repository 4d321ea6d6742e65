//! A randomised simulation of all commands with faults, against a model of what must hold: no VM of ours on the
//! node without a record or journal entry; no record `destroyed` while its VM lives; no address or VMID held twice;
//! no paid VM destroyed; nothing of strangers touched; no update of others lost; and when nothing goes wrong any
//! more, the commands bring everything in order.
//!
//! The operations are the product's own, whole, on real files and locks in a folder of their own. Behind the doors
//! of `host` stands a simulated machine (`provisioner::host::simulated`): root agent, API, terraform and clock, so
//! that an hour passes in no time and a seed always plays the same. Played again by
//! `SIMULATION_SEED=… SIMULATION_STEPS=… cargo test -p provisioner --test simulation`; with `SIMULATION_VERBOSE=1`
//! and `-- --nocapture` each step is shown as it happens.
//!
//! | module | subject |
//! |---|---|
//! | `world` | the machine, its clock, what goes wrong, who is at work |
//! | `node` `agent` `api` `terraform` | what stands behind the doors |
//! | `operations` | the commands, and what must be true when one says it succeeded |
//! | `others` | engines, operators, strangers |
//! | `judge` | what may be done to which machine, at the moment it is done |
//! | `book` `checks` | what must hold after every step |
//! | `quiet` | the end |

#![cfg(debug_assertions)]
#![allow(clippy::disallowed_methods, reason = "a simulated machine has files of its own")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod agent;
mod api;
mod book;
mod checks;
mod judge;
mod node;
mod operations;
mod others;
mod play;
mod quiet;
mod rng;
mod terraform;
mod world;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn steps() -> u64 {
    number("SIMULATION_STEPS").unwrap_or(1500)
}

/// Plays a seed; a failure says how to see it again.
fn simulate(seed: u64) {
    let steps = steps();
    let begun = std::time::Instant::now();
    match play::play(seed, steps) {
        Ok(summary) => {
            let rate = steps as f64 / begun.elapsed().as_secs_f64();
            println!("seed {seed}: {steps} steps, {rate:.0} a second; {summary}");
        }
        Err(report) => panic!(
            "seed {seed}: {report}\nagain: SIMULATION_SEED={seed} SIMULATION_STEPS={steps} cargo test -p provisioner --test simulation fresh"
        ),
    }
}

macro_rules! seeds {
    ($($test:ident $seed:literal)*) => { $(
        #[test]
        fn $test() {
            if number("SIMULATION_SEED").is_none() {
                simulate($seed);
            }
        }
    )* };
}
seeds! { seed_1 1 seed_2 2 seed_3 3 seed_4 4 seed_5 5 seed_6 6 }

/// A seed that nobody has seen, or the one that is asked for.
#[test]
fn a_fresh_seed() {
    let seed =
        number("SIMULATION_SEED").unwrap_or_else(|| u64::from(getrandom::u32().expect("a random number")));
    eprintln!("simulation: fresh seed {seed}");
    simulate(seed);
}

#[test]
fn the_same_seed_plays_the_same() {
    let play = || play::play(7, 200).map(|summary| summary.to_string());
    assert_eq!(play(), play());
}

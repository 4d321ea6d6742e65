//! What a guest-exec costs: network plugins run four in a row within 30 s
//! (`facts/contract/commands.md#callers-and-their-patience`).

use crate::support::{command, exec, place, site};
use lab::Lab;
use std::time::{Duration, Instant};

/// User and system time of the children of a shell that ran `script`, from the second line of `times`.
fn cpu_of_children(lab: &Lab, script: &str) -> Duration {
    let mut shell = lab.tool("sh");
    let path = command(lab, "blockhost-vm-guest-exec", &[]).get_program().to_string_lossy().into_owned();
    let output = shell.args(["-c", &format!("{script}; times"), "sh", &path]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().last().unwrap_or_default().to_string();
    let seconds = |part: &str| -> f64 {
        let (minutes, seconds) =
            part.trim_end_matches('s').split_once('m').unwrap_or_else(|| panic!("{text}"));
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    Duration::from_secs_f64(line.split_whitespace().map(seconds).sum())
}

#[test]
fn four_in_a_row_take_less_than_a_second_of_our_own() {
    let lab = site();
    let begun = Instant::now();
    let four = "for i in 1 2 3 4; do \"$1\" web-1 echo hi >/dev/null || exit 9; done";
    let ours = cpu_of_children(&lab, four);
    let wall = begun.elapsed();
    let trivial = cpu_of_children(&lab, "for i in 1 2 3 4; do /bin/true; done");
    println!("four guest-execs: {ours:?} of CPU in {wall:?} (four times /bin/true: {trivial:?})");
    assert!(ours < Duration::from_secs(1), "{ours:?}");
}

/// Starts of `qm` for one command in the guest.
fn starts_of_qm(lab: &Lab, text: &str) -> usize {
    let before = lab.control().last_call().unwrap();
    exec(lab, &["--timeout", "60", text]).ok();
    lab.control().calls(before).unwrap().iter().filter(|call| call.kind == "qm").count()
}

#[test]
fn h20_with_the_real_cost_of_qm_four_in_a_row_stay_far_below_30_s_and_a_long_one_leaves_the_lane_to_others() {
    let lab = Lab::builder().no_terraform().qm_ms(600).start().unwrap();
    place(&lab, 100, "web-1");
    place(&lab, 101, "web-2");
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(starts_of_qm(&lab, "echo hi"), 2, "one to begin, one to learn how it ended");
    }
    let took = begun.elapsed();
    println!("four guest-execs where each qm takes 0.6 s: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let begun = Instant::now();
    let starts = starts_of_qm(&lab, "sleep 6");
    let took = begun.elapsed();
    println!("a command of 6 s: {took:?}, {starts} starts of qm, each holding the lane for 0.6 s");
    assert!(starts <= 7, "{starts}");
}

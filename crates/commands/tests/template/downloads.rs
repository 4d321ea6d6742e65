//! The image from a server: cut off, silent, changed meanwhile, wrong; and what is kept for the next run.

use crate::site::{Build, IMAGE, SUMS, Site, has, image, run, start, sums, until};
use crate::web::Manner;
use rustix::process::Signal;

/// The images asked for, in short: `whole` or the first byte.
fn fetches(site: &Site) -> Vec<String> {
    let asked = site.web.asked();
    let of_image = asked.iter().filter_map(|line| line.strip_prefix(IMAGE));
    of_image.map(|rest| rest.strip_prefix(" from ").unwrap_or("whole").to_owned()).collect()
}

fn cached(site: &Site) -> Vec<u8> {
    std::fs::read(site.cache().join("images/debian-12-generic-amd64.qcow2")).unwrap()
}

#[test]
fn a_download_that_is_cut_off_goes_on_where_it_ended() {
    let site = Site::fresh();
    site.web.manners(IMAGE, [Manner::Cut(300_000), Manner::Cut(200_000)]);
    let ended = run(&mut site.build()).built();
    assert_eq!(fetches(&site), ["whole", "300000", "500000"]);
    assert_eq!(cached(&site), image(1));
    has(&ended.err, &["after 300000 of 1000003 bytes"]);
    // The next run takes it from the cache, where nobody has changed it.
    run(&mut site.build()).built();
    assert_eq!(fetches(&site), [""; 0]);
    let file = site.cache().join("images/debian-12-generic-amd64.qcow2");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[700_000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    run(&mut site.build()).built();
    assert_eq!(fetches(&site), ["whole"]);
    assert_eq!(cached(&site), image(1));
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let site = Site::fresh();
    site.web.manners(IMAGE, [Manner::Cut(300_000), Manner::Whole]);
    run(&mut site.build()).built();
    assert_eq!(fetches(&site), ["whole", "300000"]);
    assert_eq!(cached(&site), image(1));
}

#[test]
fn h23_a_silent_server_is_asked_again() {
    let site = Site::fresh();
    site.web.manners(IMAGE, [Manner::Silent(400_000)]);
    let ended = run(&mut site.faulty("limit@template-silence=700")).built();
    assert_eq!(fetches(&site), ["whole", "400000"]);
    has(&ended.err, &["sent nothing", "trying again"]);
}

#[test]
fn h23_a_server_that_brings_nothing_is_given_up_and_the_part_stays() {
    let site = Site::fresh();
    site.web.manners(IMAGE, std::iter::once(Manner::Cut(250_000)).chain((0..4).map(|_| Manner::Cut(0))));
    let error = run(&mut site.build()).refused();
    has(&error, &["run the command again to continue where it stopped"]);
    assert_eq!(fetches(&site).len(), 5);
    run(&mut site.build()).built();
    assert_eq!(fetches(&site), ["250000"]);
}

#[test]
fn a_new_image_of_the_publisher_is_not_mixed_with_the_old_one() {
    // Between two runs: the part of the old one is thrown away.
    let site = Site::fresh();
    site.web.manners(IMAGE, [Manner::Cut(300_000), Manner::Status(404)]);
    has(&run(&mut site.build()).refused(), &["HTTP 404"]);
    site.publish(&image(2));
    fetches(&site);
    run(&mut site.build()).built();
    assert_eq!(fetches(&site), ["whole"]);
    assert_eq!((cached(&site), site.files()), (image(2), Site::files_at_rest()));

    // Between the sums and the image: the sums are asked again.
    let site = Site::fresh();
    site.web.put(IMAGE, image(2));
    let build = start(site.faulty("sleep@template.fetched=1500"));
    until("the image is asked for", || !fetches(&site).is_empty());
    site.web.put(SUMS, sums(&image(2)));
    build.wait().ends(0).says(&["a newer one"]);
    assert_eq!(cached(&site), image(2));
}

#[test]
fn a_part_that_went_bad_is_fetched_anew() {
    let site = Site::fresh();
    site.web.manners(IMAGE, [Manner::Cut(300_000), Manner::Status(403)]);
    run(&mut site.build()).refused();
    let part = std::fs::read_dir(site.cache().join("images")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&part).unwrap();
    assert_eq!(bytes.len(), 300_000);
    bytes[1_000] ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    fetches(&site);
    let ended = run(&mut site.build()).built();
    has(&ended.err, &["the parts do not match"]);
    assert_eq!(fetches(&site), ["300000", "whole"]);
    assert_eq!(cached(&site), image(1));
    // A part that is longer than the image: the server has nothing behind it.
    let site = Site::fresh();
    site.web.manners(IMAGE, [Manner::Cut(300_000), Manner::Status(403)]);
    run(&mut site.build()).refused();
    let part = std::fs::read_dir(site.cache().join("images")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&part, vec![7; 2_000_000]).unwrap();
    run(&mut site.build()).built();
    assert_eq!(cached(&site), image(1));
}

#[test]
fn an_image_that_is_not_what_its_publisher_says_is_thrown_away() {
    let site = Site::fresh();
    site.web.put(IMAGE, image(3));
    let error = run(&mut site.build()).refused();
    has(&error, &["checksum mismatch", "SHA512SUMS"]);
    assert_eq!(fetches(&site), ["whole"]);
    assert!(site.node().is_empty() && !site.files().iter().any(|file| file.ends_with(".part")));
    assert!(!site.cache().join("images/debian-12-generic-amd64.qcow2").exists());

    for sums in ["", "<html>", &format!("{}  debian-12-generic-arm64.qcow2\n", "0".repeat(128))] {
        site.web.put(SUMS, sums);
        has(&run(&mut site.build()).refused(), &["has no SHA-512 checksum of debian-12-generic-amd64.qcow2"]);
    }
    assert_eq!(fetches(&site), [""; 0], "an image that cannot be checked is not fetched");
    // With the right sum, but no disk image.
    site.publish(b"<html>a portal that wants a password</html>");
    has(&run(&mut site.build()).refused(), &["neither a qcow2 nor a raw disk image"]);
}

#[test]
fn h31_redirects_are_followed_where_it_is_safe() {
    let site = Site::fresh();
    site.web.put("/mirror/image", image(1));
    site.web.manners(IMAGE, [Manner::Redirect("/mirror/image".into())]);
    run(&mut site.build()).built();
    let site = Site::fresh();
    for (to, why) in [
        ("http://mirror.example/image", "only https is safe"),
        ("file:///etc/shadow", "must begin with https"),
    ] {
        site.web.manners(IMAGE, [Manner::Redirect(to.into())]);
        has(&run(&mut site.build()).refused(), &["was redirected", why]);
    }
    site.web.manners(IMAGE, (0..20).map(|_| Manner::Redirect(IMAGE.into())));
    has(&run(&mut site.build()).refused(), &["more than 8 times"]);
    assert!(site.node().is_empty());
}

#[test]
fn a_signal_ends_a_download_and_the_part_stays() {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let site = Site::fresh();
        site.web.manners(IMAGE, [Manner::Silent(400_000)]);
        let child = start(&mut site.build());
        until("some of it is there", || {
            let parts = std::fs::read_dir(site.cache().join("images")).into_iter().flatten().flatten();
            parts.into_iter().any(|part| part.metadata().unwrap().len() == 400_000)
        });
        child.signal(signal);
        let ended = child.wait();
        if signal == Signal::KILL {
            ended.was_killed();
        } else {
            has(&ended.refused(), &["interrupted by a signal"]);
        }
        fetches(&site);
        run(&mut site.build()).built();
        assert_eq!(fetches(&site), ["400000"]);
    }
}

#[test]
fn a_key_that_is_none_ends_it_before_the_image() {
    let site = Site::fresh();
    site.web.put("/key.asc", "<html>not found</html>");
    has(&run(&mut site.build()).refused(), &["/key.asc is no OpenPGP key"]);
    assert_eq!(fetches(&site), [""; 0]);
}

//! What a build keeps is on the disk (hazard H14): its journal and the image, by a trace of the system calls.

use crate::site::{Build, Site, run};
use crate::system_calls::{assert_synced, renames, traced};

#[test]
fn h14_journal_and_image_were_synced_before_they_got_their_names() {
    let site = Site::fresh();
    let folder = tempfile::tempdir().unwrap();
    run(&mut traced(&site.build(), folder.path())).built();
    let root = site.lab.path("");
    let expected =
        ["cache/customised-*.qcow2", "cache/images/debian-12-generic-amd64.qcow2", "cache/template.json"];
    assert_synced(&renames(folder.path(), &root), &root, &expected);
}

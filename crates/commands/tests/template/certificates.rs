//! Downloads from a server with a certificate (hazard H31): only the machine's own authorities count, and none of them
//! has signed any of these.

use crate::site::{Build, IMAGE, LIMITS, Site, has, run};
use lab::{Outside, Shown, in_own_network};

#[test]
fn h31_nothing_is_asked_of_a_server_whose_certificate_is_not_to_be_believed() {
    let done = in_own_network(|| {
        let site = Site::fresh();
        let outside = Outside::before(&site.lab).unwrap();
        for shown in [&Shown::BAD[..], &[Shown::Good]].concat() {
            outside.show(shown).unwrap();
            let address = format!("{}{IMAGE}", outside.endpoint());
            let key = format!("{}/key.asc", site.web.origin);
            // The image, and a key.
            for key in [&key, &address] {
                let mut build = site.lab.command("blockhost-build-template");
                build
                    .args(["--image-url", &address, "--nodejs-key", key])
                    .env("BLOCKHOST_CACHE_DIR", site.cache());
                let error = run(build.env("BLOCKHOST_FAULT", LIMITS)).refused();
                has(&error, &["certificate"]);
                let heard = outside.heard();
                assert!(heard.connections > 0 && heard.bytes.is_empty(), "{shown:?}: {heard:?}");
            }
        }
    });
    done.unwrap();
}

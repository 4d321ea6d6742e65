//! What others hand us, black box: the database that other writers share, malformed files and answers, hostile
//! values, foreign owners, and a dry run that stays dry.
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agent_answers;
mod allocation;
mod attacks;
mod certificates;
mod dry_run;
mod hammer;
mod malformed_cloud_init;
mod malformed_database;
mod malformed_settings;
mod odd_files;
mod odd_texts;
mod ownership;
mod properties;
mod records;
mod root_gives_up;
mod secrets;
mod support;
mod unchecked;
mod unlocked;

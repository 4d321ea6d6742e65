use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn whole(text: &[u8]) -> Result<(), Stop> {
    let mut cursor = Cursor::new(text);
    cursor.skip_value()?;
    if cursor.is_at_end() { Ok(()) } else { Err(cursor.bad("the end")) }
}

#[test]
fn what_serde_json_takes_and_refuses_is_taken_and_refused() {
    for text in [
        r#"{}"#,
        r#"[]"#,
        r#"[ ]"#,
        r#"{"a":1}"#,
        r#"[1,-0.5e+3,0,10]"#,
        r#"[01]"#,
        r#"[1.]"#,
        r#"[.5]"#,
        r#"[-]"#,
        r#"[1e]"#,
        r#"[1,]"#,
        r#"{"a":1,}"#,
        r#"{,}"#,
        r#"{"a" 1}"#,
        r#"{a:1}"#,
        r#"["\u00e9\n\/"]"#,
        r#"["\x"]"#,
        r#"["\u12g4"]"#,
        "[\"\u{1}\"]",
        "[\"a\nb\"]",
        "[\"\u{7f}\"]",
        r#"[tru]"#,
        r#"[truex]"#,
        r#"[nul, 1]"#,
        r#"{"a":{"b":[[]]}}"#,
        r#"[[[]"#,
        r#"[}"#,
        r#"{]"#,
        r#"[1 2]"#,
        "[\"é😀\"]",
        "",
        " ",
        "[NaN]",
        "[+1]",
        "[\"abcdefg\\\"h\"]",
    ] {
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        assert_eq!(whole(text.as_bytes()).is_ok(), theirs, "{text}");
    }
    // Valid in other programs, but not representable in a Rust string.
    assert_eq!(whole(br#"["\ud800"]"#), Ok(()));
    assert_eq!(whole(b"[\"\xff\"]"), Err(Stop::Bad(2, NOT_UTF_8)));
    assert_eq!(whole(b"[\"\xed\xa0\x80\"]"), Err(Stop::Bad(2, NOT_UTF_8)));
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_eq!(whole(deep.as_bytes()), Ok(()));
}

#[test]
fn the_meaning_of_a_string() {
    let mut cursor = Cursor::new(r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud800x\udc00é" "#.as_bytes());
    let text = cursor.string().unwrap();
    assert_eq!(text.meaning(), "a\"\\/\u{8}\u{c}\n\r\té😀\u{fffd}x\u{fffd}é");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        "[ -~]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((".*", inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_value_is_walked_over_whole_and_no_beginning_of_one_is(value in any_json(), pretty in any::<bool>()) {
        let value = Value::from(vec![value]);
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let mut cursor = Cursor::new(text.as_bytes());
        prop_assert_eq!(cursor.value(), Ok(text.as_str()));
        for end in 0..text.len() {
            prop_assert_eq!(whole(&text.as_bytes()[..end]), Err(Stop::End), "{}", &text.as_bytes()[..end].escape_ascii());
        }
    }

    #[test]
    fn a_walk_can_be_taken_up_again_anywhere(value in any_json(), part in 1usize..40) {
        let text = serde_json::to_string(&Value::from(vec![value])).unwrap();
        let (mut nesting, mut done, mut seen) = (Nesting::default(), 0, part);
        loop {
            let mut cursor = Cursor::new(&text.as_bytes()[done..seen.min(text.len())]);
            match nesting.skip(&mut cursor) {
                Ok(()) => { prop_assert_eq!(done + cursor.at(), text.len()); break }
                Err(Stop::End) => { prop_assert!(seen < text.len()); done += cursor.at(); seen += part; }
                Err(bad) => prop_assert!(false, "{:?}", bad),
            }
        }
    }

    #[test]
    fn text_that_is_no_json_is_judged_as_serde_json_judges_it(text in r#"[\[\]{}",:0-9a-z\\ \.\-]{0,16}"#) {
        let text = format!("[{text}]");
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(whole(text.as_bytes()).is_ok(), theirs, "{}", text);
    }

    #[test]
    fn strings_mean_what_serde_json_reads(text in ".*") {
        let json = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(Cursor::new(json.as_bytes()).string().unwrap().meaning(), text.as_str());
    }
}

//! The text of a static answer, written or in a file.

use super::*;

const LADDER: &str = "[routes.default]\nladder = [\"anthropic\", \"static\"]\n";

/// A directory of its own that ends with the test.
struct Beside(std::path::PathBuf);

impl Beside {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("seawall-static-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn parse(&self, file: &str) -> Result<Config, ConfigError> {
        Config::parse(
            &format!("{LADDER}static = {{ file = \"{file}\" }}"),
            &self.0.join("seawall.toml"),
            &Overrides::default(),
            &environment(),
        )
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn the_text_of_an_answer_stands_in_the_config_or_in_a_file_beside_it() {
    let text = |config: Config| {
        let template = config.routes[DEFAULT_ROUTE].static_text.clone().unwrap();
        template.render(&Variables {
            route: "default",
            ..Variables::default()
        })
    };
    let written = format!("{LADDER}static = {{ text = \"{{route}} is down\" }}");
    assert_eq!(text(parse(&written).unwrap()), "default is down");
    let beside = Beside::new("found");
    std::fs::write(
        beside.0.join("down.txt"),
        "Back in {retry_after}.\r\n\nSorry.\n",
    )
    .unwrap();
    assert_eq!(
        text(beside.parse("down.txt").unwrap()),
        "Back in a moment.\r\n\nSorry."
    );
}

#[test]
fn a_file_that_is_no_answer_is_refused_with_its_name_and_place() {
    let beside = Beside::new("refused");
    let huge = "x".repeat((64 << 10) + 1);
    for (name, content, words) in [
        ("empty.txt", &b" \n"[..], &["empty.txt", "helps nobody"][..]),
        (
            "huge.txt",
            huge.as_bytes(),
            &["huge.txt", "at most 65536 bytes"],
        ),
        ("bytes.txt", b"\xff\xfe", &["bytes.txt", "no UTF-8"]),
        (
            "wrong.txt",
            b"a\nb {rout}",
            &["wrong.txt:2:3: ", "did you mean `{route}`?"],
        ),
    ] {
        std::fs::write(beside.0.join(name), content).unwrap();
        let error = beside.parse(name).unwrap_err();
        let [problem] = error.problems() else {
            panic!("one problem expected:\n{error}")
        };
        let shown = problem.to_string();
        assert!(shown.contains("seawall.toml:3:19: "), "{shown}");
        for word in words {
            assert!(shown.contains(word), "{word:?} is not in: {shown}");
        }
    }
    let missing = beside.parse("missing.txt").unwrap_err().to_string();
    assert!(
        missing.contains("cannot read") && missing.contains("missing.txt"),
        "{missing}"
    );
}

#[test]
fn an_answer_is_one_text_that_can_be_rendered() {
    for (answer, column, words) in [
        ("text = \" \"", 19, &["helps nobody"][..]),
        (
            "text = \"{retry_afer}\"",
            19,
            &["did you mean `{retry_after}`?"],
        ),
        ("text = \"a { b\"", 19, &["never closed", "`{{`"]),
        ("", 10, &["needs its text", "file"]),
        ("txt = \"x\"", 10, &["did you mean `text`?"]),
    ] {
        let error = parse(&format!("{LADDER}static = {{ {answer} }}")).unwrap_err();
        let shown = error.to_string();
        assert!(
            shown.contains(&format!("seawall.toml:3:{column}: ")),
            "{shown}"
        );
        for word in words {
            assert!(shown.contains(word), "{word:?} is not in: {shown}");
        }
    }
    let beside = Beside::new("both");
    std::fs::write(beside.0.join("x.txt"), "x").unwrap();
    let file = beside.0.join("x.txt");
    refused(
        &format!(
            "{LADDER}static = {{ text = \"x\", file = \"{}\" }}",
            file.display()
        ),
        "seawall.toml:3:10:",
        &["both text and file"],
    );
}

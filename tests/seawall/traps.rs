//! Known traps that only the source can show.

use std::fs;
use std::path::Path;

/// Every line of the actors' shipped code, with its file.
fn lines(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                lines(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).unwrap();
            let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = shipped.lines().map(|line| line.split("//").next().unwrap());
            found.extend(code.map(|line| (name.clone(), line.to_owned())));
        }
    }
}

fn blocking(code: &[(String, String)]) -> Vec<String> {
    let words = [
        "block_on(",
        "block_in_place",
        "blocking_",
        "Condvar",
        "std::fs",
        "std::net",
        "std::sync::mpsc",
        "thread::park",
        concat!("thread::", "sleep"),
    ];
    let blocks = |line: &str| words.iter().any(|word| line.contains(word));
    let found = code.iter().filter(|(_, line)| blocks(line));
    found
        .map(|(name, line)| format!("{name}: {}", line.trim()))
        .collect()
}

#[test]
fn trap_43_no_actor_blocks_its_thread() {
    let mut code = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("actors/src");
    lines(&folder, &mut code);
    assert!(code.len() > 3000, "{} lines read", code.len());
    // Hooks wait on a thread of their own.
    assert_eq!(
        blocking(&code),
        ["event.rs: heard(self.receiver.blocking_recv())"]
    );
    let bad = ("x.rs".to_owned(), "runtime.block_on(wait)".to_owned());
    assert_eq!(blocking(&[bad]).len(), 1);
}

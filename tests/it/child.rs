//! This test binary once more, as a child that does one task.
//!
//! Not here: the tasks. A test that needs a process of its own to be killed starts itself again
//! with [`again`], and asks first thing whether it is that child, with [`task`].

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TASK: &str = "PLIMSOLL_TEST_TASK";
const DIR: &str = "PLIMSOLL_TEST_DIR";

/// The folder to do `task` in, if this process was started for that.
pub(crate) fn task(task: &str) -> Option<PathBuf> {
    if std::env::var(TASK).ok()? != task {
        return None;
    }
    std::env::var_os(DIR).map(PathBuf::from)
}

/// A command that runs the test `name` of this binary as a child, for `task` in `dir`.
pub(crate) fn again(name: &str, task: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", "--test-threads=1", name])
        .env(TASK, task)
        .env(DIR, dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    command
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

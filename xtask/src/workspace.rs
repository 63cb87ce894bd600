//! Where things are: the repository's root and cargo's target directory.

use std::env;
use std::path::{Path, PathBuf};

use crate::Result;

/// The repository's root: the parent of this crate.
pub fn root() -> Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .ok_or("CARGO_MANIFEST_DIR is not set: start this with `cargo xtask`")?;
    let parent = Path::new(&manifest).parent().ok_or("xtask has no parent directory")?;
    Ok(parent.to_owned())
}

/// Cargo's target directory: this program runs in `<target>/<profile>`.
pub fn target() -> Result<PathBuf> {
    let exe = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let target =
        exe.parent().and_then(Path::parent).ok_or("this program is not in a target directory")?;
    Ok(target.to_owned())
}

/// What tests of the SDKs keep between runs: the venv and the Node modules.
pub fn sdk_home() -> Result<PathBuf> {
    Ok(target()?.join("sdk"))
}

//! The master key, from the environment or a file.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_registry::MasterKey;
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::Environment;
use crate::files;

/// Base64 of the 32 bytes.
pub(crate) const VARIABLE: &str = "DUNLIN_MASTER_KEY";
const FILE: &str = "master.key";

/// From `DUNLIN_MASTER_KEY`, else from the data folder, where a first start makes it: but not for
/// `devices` on a server, which outlive this folder and may have other registries.
pub(crate) fn load(data: &Path, environment: &Environment, devices: &str) -> Result<MasterKey> {
    if let Some(text) = environment.get(VARIABLE) {
        return decode(text).context(VARIABLE);
    }
    let path = data.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => decode(&text).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound && !devices.starts_with("embedded:") => {
            bail!(
                "the registry needs the key that seals devices' keys: make one with `openssl rand \
                 -base64 32`, keep it, and give it to every registry of this hub as {VARIABLE}"
            )
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut bytes = [0; MasterKey::BYTES];
            SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
            let text = format!("{}\n", STANDARD.encode(bytes));
            files::keep(&path, text.as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(MasterKey::new(&bytes))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn decode(text: &str) -> Result<MasterKey> {
    match STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => Ok(MasterKey::new(&bytes)),
        None => bail!("a master key is {} bytes in base64", MasterKey::BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_the_environment_comes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let none = Environment::new();
        let load = |folder, environment| load(folder, environment, "embedded:");
        load(folder.path(), &none).expect("made");
        let first = std::fs::read(folder.path().join(FILE)).expect("written");
        load(folder.path(), &none).expect("read");
        assert_eq!(std::fs::read(folder.path().join(FILE)).expect("kept"), first);
        std::fs::write(folder.path().join(FILE), "short").expect("written");
        assert!(load(folder.path(), &none).is_err());
        let given = [(VARIABLE.to_owned(), STANDARD.encode([1; 32]))].into();
        load(folder.path(), &given).expect("from the environment");
        let bad = [(VARIABLE.to_owned(), "AA==".to_owned())].into();
        let error = format!("{:#}", load(folder.path(), &bad).expect_err("too short"));
        assert!(error.contains(VARIABLE) && !error.contains("AA=="), "{error}");
    }

    #[test]
    fn none_is_made_for_a_server() {
        let folder = tempfile::tempdir().expect("a folder");
        let (none, url) = (Environment::new(), "postgres://host/db");
        let error = load(folder.path(), &none, url).expect_err("missing").to_string();
        assert!(error.contains("openssl rand -base64 32") && error.contains(VARIABLE), "{error}");
        assert!(!folder.path().join(FILE).exists());
        load(folder.path(), &none, "embedded:").expect("made");
        load(folder.path(), &none, url).expect("one that is there is taken");
    }
}

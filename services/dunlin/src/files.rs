//! Files only the hub's user may read, written whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// Puts the file in place of any former one. Lost with the machine's power: for what is made anew.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content)?.persist(path)?;
    Ok(())
}

/// As [`replace`], and it survives a loss of power: for what cannot be made again.
pub(crate) fn keep(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = write(path, content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder_of(path))?.sync_all()
}

/// A temporary file beside the final one; such files are made with mode 0600.
fn write(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder_of(path))?;
    file.write_all(content)?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        for write in [replace, keep] {
            write(&path, b"one and more").expect("written");
            write(&path, b"two").expect("written again");
            assert_eq!(std::fs::read(&path).expect("read"), b"two");
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(&folder).expect("listed").count(), 1, "nothing is left over");
    }
}

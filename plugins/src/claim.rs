//! How plugins call what they must have to themselves: one file has one name, however it is written.

use std::path::{Path, PathBuf};

/// A path without links, dots and doubled slashes; of what does not exist yet, the directory's and the name.
pub fn canonical(path: &str) -> PathBuf {
    let path = Path::new(path);
    if let Ok(canonical) = path.canonicalize() {
        return canonical;
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (directory.canonicalize(), path.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_file_has_one_name() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let name = |tail: &str| canonical(root.join(tail).to_str().unwrap());
        assert_eq!(name("port"), root.join("port"));
        assert_eq!(name("./../"), root.parent().unwrap());
        std::fs::create_dir(root.join("dev")).unwrap();
        assert_eq!(name("dev/../port"), root.join("port"));
        std::fs::write(root.join("real"), "").unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        assert_eq!(name("link"), name("dev/../real"));
    }
}

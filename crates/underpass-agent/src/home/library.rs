//! The library that is preloaded into programs, as a file.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use super::{Home, HomeError, file};

impl Home {
    /// Where the library is: its own file for each content, since programs may still be running with an older one, and start
    /// others with it. Made where it is missing, or is not what it should be.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn hook_library(&self, content: &[u8]) -> Result<PathBuf, HomeError> {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        file::make_private_folder(&self.state)?;
        let name = format!("libunderpass_hook-{:016x}.so", hasher.finish());
        let path = self.state.join(name);
        let path = std::path::absolute(&path).unwrap_or(path);
        let _lock = self.lock()?;
        if fs::read(&path).ok().as_deref() != Some(content) {
            file::replace(&path, content, 0o600)?;
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_content_has_a_file_that_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let [one, two] = [&b"one"[..], b"two"].map(|content| home.hook_library(content).unwrap());
        assert_ne!(one, two);
        fs::write(&one, "damaged").unwrap();
        assert_eq!(home.hook_library(b"one").unwrap(), one);
        assert_eq!(fs::read(&one).unwrap(), b"one");
        assert_eq!(fs::read(&two).unwrap(), b"two");
    }
}

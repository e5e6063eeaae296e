//! The folder of a file path. A bare file name lies in the current folder.

use std::path::Path;

/// The parent folder, or `.` for a bare file name.
pub fn parent_folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_lies_in_the_current_folder() {
        for (path, folder) in
            [("k.sock", "."), ("a/k.sock", "a"), ("/k.sock", "/"), ("/run/k", "/run"), ("", ".")]
        {
            assert_eq!(parent_folder(Path::new(path)), Path::new(folder), "{path}");
        }
    }
}

//! The memory limit of this process's control group, in versions 2 and 1 (cgroups(7)).

use std::{fs, path::Path};

/// Version 1 writes no limit as the largest number of pages.
const NO_LIMIT: u64 = 1 << 60;

/// The least limit of the group and its ancestors, in bytes.
pub(in crate::settings) fn memory_limit() -> Option<u64> {
    memory_limit_below(Path::new("/"))
}

fn memory_limit_below(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (folder, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container the path can be the host's: then only its last ancestor exists here.
        let ancestors = Path::new(path.trim_start_matches('/')).ancestors();
        let read = |group: &Path| {
            let text = fs::read_to_string(root.join(folder).join(group).join(file)).ok()?;
            text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
        };
        ancestors.filter_map(read).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        memory_limit_below(root.path())
    }

    #[test]
    fn the_least_limit_of_the_group_and_its_ancestors_counts() {
        let v2 = ("proc/self/cgroup", "0::/system.slice/keyringd.service\n");
        let of_unit = ("sys/fs/cgroup/system.slice/keyringd.service/memory.max", "max\n");
        let of_slice = ("sys/fs/cgroup/system.slice/memory.max", "402653184\n");
        assert_eq!(limit(&[v2, of_unit, of_slice]), Some(384 << 20));
        assert_eq!(limit(&[v2, of_unit]), None);
        // In a container: with a namespace of its own, and with the host's path.
        let of_root = ("sys/fs/cgroup/memory.max", "134217728\n");
        for path in ["0::/\n", "0::/kubepods/pod-1/container-1\n", "0::/../../container-1\n"] {
            assert_eq!(limit(&[("proc/self/cgroup", path), of_root]), Some(128 << 20), "{path}");
        }
        for not_a_number in ["", "x", "-1", "99999999999999999999"] {
            assert_eq!(limit(&[v2, ("sys/fs/cgroup/memory.max", not_a_number)]), None, "{not_a_number}");
        }
        let v1 = ("proc/self/cgroup", "4:cpu,memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n");
        let of_container = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n");
        assert_eq!(limit(&[v1, of_container]), Some(64 << 20));
        let no_limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!((limit(&[v1, no_limit]), limit(&[])), (None, None));
    }
}

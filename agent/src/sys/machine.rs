//! What of the hardware tells one machine from another, as the system's files say it.
//!
//! Apart because each of them lies in its own way. `/etc/machine-id` is not among them: a copied card has the same one, a reinstalled system
//! another, and a read-only one draws it at each boot.

use std::{collections::BTreeSet, fs, path::Path};

/// A universally unique id that manufacturers leave where one of their own should be, in both orders of its bytes.
const PLACEHOLDERS: [&str; 2] = ["03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009"];
/// Files that only containers have: which hardware is below them says nothing of whose state it is.
const CONTAINER: [&str; 4] = [".dockerenv", "run/.containerenv", "run/systemd/container", "var/run/secrets/kubernetes.io"];

/// What is known of a machine; nothing in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Serial number of the board, from its device tree: every Raspberry Pi has one.
    pub board: Option<String>,
    /// Id of the product, from its firmware; only root can read it.
    pub product: Option<String>,
    /// Addresses of its network interfaces, but for those on USB and those that no manufacturer has given: both come and go.
    pub addresses: BTreeSet<String>,
}

impl Machine {
    /// Reads the files below `root`, which is `/` but for tests.
    pub fn read(root: &Path) -> Self {
        if CONTAINER.iter().any(|file| root.join(file).exists()) {
            return Self::default();
        }
        // The first is what the second links to, and shows where `/proc` is restricted.
        let board = ["sys/firmware/devicetree/base/serial-number", "proc/device-tree/serial-number"];
        Self {
            board: board.iter().find_map(|file| unique(&root.join(file))),
            product: unique(&root.join("sys/class/dmi/id/product_uuid")).filter(|id| !PLACEHOLDERS.contains(&id.as_str())),
            addresses: addresses(&root.join("sys/class/net")),
        }
    }

    /// Whether it is the machine that was known as `known`: the strongest thing both have decides, and where they have nothing in common
    /// to compare nobody can say. An interface that is missing may come up later; one address of several is enough.
    pub fn is(&self, known: &Self) -> Option<bool> {
        let both = |ours: &Option<String>, theirs: &Option<String>| Some(ours.as_ref()? == theirs.as_ref()?);
        let addresses = || {
            let comparable = !self.addresses.is_empty() && !known.addresses.is_empty();
            comparable.then(|| !self.addresses.is_disjoint(&known.addresses))
        };
        both(&self.board, &known.board).or_else(|| both(&self.product, &known.product)).or_else(addresses)
    }
}

/// What a file says in one line, in lower case, if that can be of one machine alone.
fn unique(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_ascii_lowercase();
    let mut digits = text.chars().filter(char::is_ascii_alphanumeric);
    let first = digits.next()?;
    (digits.any(|digit| digit != first) && text.len() <= 128 && text.chars().all(|c| c.is_ascii_graphic())).then_some(text)
}

fn addresses(interfaces: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(interfaces) else { return BTreeSet::new() };
    entries.flatten().filter_map(|entry| address(&entry.path())).collect()
}

/// The address a manufacturer has given to an interface.
fn address(interface: &Path) -> Option<String> {
    let device = fs::canonicalize(interface.join("device")).ok()?;
    let on_usb = device.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
    // 0 is what the hardware says itself, neither drawn at random nor set by somebody.
    if on_usb || fs::read_to_string(interface.join("addr_assign_type")).ok()?.trim() != "0" {
        return None;
    }
    let address = unique(&interface.join("address"))?;
    let first = u8::from_str_radix(address.split(':').next()?, 16).ok()?;
    // Boot loaders without an address of their own draw one each time, with the bit of locally given ones.
    (address.len() == 17 && first & 0b10 == 0).then_some(address)
}

#[cfg(test)]
pub mod testing {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Puts a file below a root, and the directories it lies in.
    pub fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Puts an interface below a root.
    pub fn interface(root: &Path, name: &str, bus: &str, address: &str, kind: &str) {
        let device = root.join(format!("sys/devices/{bus}/{name}"));
        fs::create_dir_all(&device).unwrap();
        put(root, &format!("sys/class/net/{name}/address"), address);
        put(root, &format!("sys/class/net/{name}/addr_assign_type"), kind);
        std::os::unix::fs::symlink(device, root.join(format!("sys/class/net/{name}/device"))).unwrap();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{
        testing::{interface, put},
        *,
    };

    fn with(board: Option<&str>, product: Option<&str>, addresses: &[&str]) -> Machine {
        Machine {
            board: board.map(str::to_owned),
            product: product.map(str::to_owned),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    #[test]
    fn a_raspberry_is_known_by_its_serial_number_and_a_desktop_by_its_own_interfaces() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(Machine::read(root), Machine::default());
        put(root, "sys/firmware/devicetree/base/serial-number", "10000000ABCDEF12\0");
        put(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        put(root, "sys/class/dmi/id/product_uuid", "03000200-0400-0500-0006-000700080009\n");
        interface(root, "eth0", "platform/soc", "dc:a6:32:01:02:03\n", "0\n");
        interface(root, "eth1", "platform/soc/usb1/1-1", "00:e0:4c:01:02:03\n", "0\n");
        interface(root, "wlan0", "platform/mmc", "dc:a6:32:01:02:04\n", "3\n");
        interface(root, "eth2", "platform/soc", "02:a6:32:01:02:04\n", "0\n");
        put(root, "sys/class/net/lo/address", "00:00:00:00:00:00\n");
        assert_eq!(Machine::read(root), with(Some("10000000abcdef12"), None, &["dc:a6:32:01:02:03"]));
    }

    #[test]
    fn what_every_machine_of_a_kind_has_and_what_a_container_sees_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "proc/device-tree/serial-number", "0000000000000000\0");
        put(root, "sys/class/dmi/id/product_uuid", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n");
        assert_eq!(Machine::read(root), Machine::default());
        put(root, "sys/class/dmi/id/product_uuid", "4c4c4544-0042-3510-8054-b4c04f4e3132\n");
        assert_eq!(Machine::read(root).product.as_deref(), Some("4c4c4544-0042-3510-8054-b4c04f4e3132"));
        put(root, "run/.containerenv", "");
        assert_eq!(Machine::read(root), Machine::default());
    }

    #[test]
    fn the_strongest_thing_both_have_decides_and_what_is_missing_decides_nothing() {
        let known = with(Some("1"), Some("p"), &["a", "b"]);
        assert_eq!(with(Some("1"), Some("q"), &["c"]).is(&known), Some(true), "another network, another firmware");
        assert_eq!(with(Some("2"), Some("p"), &["a"]).is(&known), Some(false));
        assert_eq!(with(None, Some("p"), &["c"]).is(&known), Some(true));
        assert_eq!(with(None, None, &["b", "c"]).is(&known), Some(true));
        assert_eq!(with(None, None, &["c"]).is(&known), Some(false));
        assert_eq!(with(None, None, &[]).is(&known), None, "no interface is up yet");
        assert_eq!(known.is(&Machine::default()), None);
    }
}

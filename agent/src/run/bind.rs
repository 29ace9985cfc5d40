//! Binds the agent's id to the machine, so that a copied card does not go by the name of the one it was copied from.
//!
//! The id stands for the agent at far sides: Kafka's transactions and control records and the idempotency keys of requests are named by it.
//! Two of one name would shut each other out, or be taken for one. It is the store's, until the state directory is found in another machine:
//! then one is drawn, in a file beside the store (`machine`), and what was numbered before goes on under the name it had. What waits is
//! delivered all the same; names that are set in the configuration are kept.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use weir_plugin_api::plugin::AgentId;

use crate::sys::machine::Machine;

/// The file in the state directory.
const FILE: &str = "machine";
/// Addresses that are remembered of one machine.
const ADDRESSES_MAX: usize = 16;

/// The agent's id, and how it came by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The id.
    pub id: AgentId,
    /// It was drawn at this start, as the machine is another one.
    pub drawn: bool,
}

/// What a start knows.
pub struct Start<'a> {
    /// The state directory.
    pub directory: &'a Path,
    /// Id of the store in it.
    pub store: u64,
    /// Last record that was recovered.
    pub recovered: u64,
    /// The machine it runs on.
    pub machine: &'a Machine,
    /// A random number.
    pub new_id: u64,
}

/// The agent's id on this machine; it is durable when this returns, or the log says that it is not.
pub fn bind(start: &Start<'_>) -> Bound {
    let path = start.directory.join(FILE);
    let here = || start.machine.clone();
    let drawn = |before: u64| AgentId { now: start.new_id, earlier: Some((before, start.recovered)) };
    let mut damaged = false;
    let (known, is_new) = match Known::read(&path, start.store) {
        // A store that is new, or one whose id is.
        Ok(known) if known.store != start.store => (Known { store: start.store, id: start.store.into(), machine: here() }, false),
        Ok(known) if start.machine.is(&known.machine) == Some(false) => (Known { id: drawn(known.id.now), machine: here(), ..known }, true),
        Ok(known) => (known.with(start.machine), false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (Known { store: start.store, id: start.store.into(), machine: here() }, false)
        }
        // It may have said that this is not the store's first machine: the first one's name is not to be taken by mistake.
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "what machine the state is of can't be read");
            damaged = true;
            (Known { store: start.store, id: drawn(start.store), machine: here() }, true)
        }
    };
    if let Err(error) = known.save(&path) {
        tracing::warn!(file = %path.display(), %error, "can't remember the machine: the next start may draw another id");
    }
    if is_new {
        tracing::warn!(
            id = format!("{:016x}", known.id.now),
            before = format!("{:016x}", known.id.earlier.map_or(0, |(id, _)| id)),
            "the state {} another machine, a copied or moved card: the agent goes by a new id from here on; what waits is delivered, which the other one \
             may do too; a `client_id` or `transactional_id` that is set must be another one on each",
            if damaged { "may be that of" } else { "is that of" },
        );
    }
    Bound { id: known.id, drawn: is_new }
}

/// What the file says, a line each: `store ID`, `agent ID`, `earlier ID RECORD`, `board TEXT`, `product TEXT`, `address TEXT`, and the
/// CRC-32C of the lines before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    store: u64,
    id: AgentId,
    machine: Machine,
}

impl Known {
    fn read(path: &Path, store: u64) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
        let (body, sum) = text.rsplit_once("crc ").ok_or_else(damaged)?;
        if u32::from_str_radix(sum.trim(), 16).ok() != Some(crc32c::crc32c(body.as_bytes())) {
            return Err(damaged());
        }
        let mut known = Self { store, id: store.into(), machine: Machine::default() };
        let id = |text: &str| u64::from_str_radix(text, 16).map_err(|_| damaged());
        for line in body.lines() {
            match line.split_once(' ').ok_or_else(damaged)? {
                ("store", text) => known.store = id(text)?,
                ("agent", text) => known.id.now = id(text)?,
                ("earlier", text) => {
                    let (before, record) = text.split_once(' ').ok_or_else(damaged)?;
                    known.id.earlier = Some((id(before)?, record.parse().map_err(|_| damaged())?));
                }
                ("board", text) => known.machine.board = Some(text.to_owned()),
                ("product", text) => known.machine.product = Some(text.to_owned()),
                ("address", text) => drop(known.machine.addresses.insert(text.to_owned())),
                // Of a newer version.
                _ => {}
            }
        }
        Ok(known)
    }

    /// With what is known of its machine now: a service may see less than root does, and interfaces come up one by one.
    fn with(mut self, machine: &Machine) -> Self {
        let known = &mut self.machine;
        known.board = known.board.take().or_else(|| machine.board.clone());
        known.product = known.product.take().or_else(|| machine.product.clone());
        for address in &machine.addresses {
            if known.addresses.len() < ADDRESSES_MAX {
                known.addresses.insert(address.clone());
            }
        }
        self
    }

    fn text(&self) -> String {
        let mut text = format!("store {:016x}\nagent {:016x}\n", self.store, self.id.now);
        if let Some((before, record)) = self.id.earlier {
            text.push_str(&format!("earlier {before:016x} {record}\n"));
        }
        let Machine { board, product, addresses } = &self.machine;
        let told = [("board", board), ("product", product)].into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        for (name, value) in told.chain(addresses.iter().map(|address| ("address", address))) {
            text.push_str(&format!("{name} {value}\n"));
        }
        let sum = crc32c::crc32c(text.as_bytes());
        text + &format!("crc {sum:08x}\n")
    }

    /// Writes it durably, all or nothing, and only if it is not what is there.
    fn save(&self, path: &Path) -> io::Result<()> {
        let text = self.text();
        if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(());
        }
        let temporary: PathBuf = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sys::machine::testing::{interface, put};

    fn pi(serial: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "sys/firmware/devicetree/base/serial-number", &format!("{serial}\0"));
        root
    }

    fn start(directory: &Path, root: &Path, store: u64, recovered: u64, new_id: u64) -> Bound {
        bind(&Start { directory, store, recovered, machine: &Machine::read(root), new_id })
    }

    #[test]
    fn a_copied_card_goes_by_a_new_id_and_the_first_machine_keeps_its_own() {
        let (first, second, third) = (pi("10000000aaaa0001"), pi("10000000aaaa0002"), pi("10000000aaaa0003"));
        let (card, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = Bound { id: 7.into(), drawn: false };
        assert_eq!(start(card.path(), first.path(), 7, 0, 100), own);
        assert_eq!(start(card.path(), first.path(), 7, 50, 101), own, "it stays");
        fs::copy(card.path().join(FILE), copy.path().join(FILE)).unwrap();

        let drawn = AgentId { now: 102, earlier: Some((7, 80)) };
        assert_eq!(start(copy.path(), second.path(), 7, 80, 102), Bound { id: drawn, drawn: true });
        assert_eq!(start(copy.path(), second.path(), 7, 99, 103), Bound { id: drawn, drawn: false }, "once");
        assert_eq!(start(card.path(), first.path(), 7, 90, 104), own);
        assert_eq!([drawn.of(at(80)), drawn.of(at(81))], [7, 102], "what was numbered before keeps the name it had");

        let again = AgentId { now: 105, earlier: Some((102, 200)) };
        assert_eq!(start(copy.path(), third.path(), 7, 200, 105).id, again, "a copy of the copy");
    }

    fn at(record: u64) -> weir_plugin_api::Identity {
        weir_plugin_api::Identity { record, ordinal: 1 }
    }

    #[test]
    fn other_sticks_other_names_and_interfaces_that_are_late_are_no_other_machine() {
        let (root, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, directory) = (root.path(), directory.path());
        let id = || start(directory, root, 7, 50, 100);
        let own = Bound { id: 7.into(), drawn: false };
        put(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        interface(root, "eth1", "pci/usb1/1-1", "00:e0:4c:01:02:03", "0");
        assert_eq!(id(), own);
        interface(root, "eth0", "pci/0000:01", "00:1b:21:01:02:03", "0");
        assert_eq!(id(), own, "comes up after the first start");
        put(root, "sys/class/net/eth1/address", "00:e0:4c:01:02:99");
        put(root, "etc/machine-id", "99999999999999999999999999999990\n");
        interface(root, "wlan0", "pci/0000:02", "00:1b:77:01:02:03", "0");
        assert_eq!(id(), own, "another stick, another system, one card more");
        put(root, "sys/class/net/eth0/address", "00:1b:21:99:99:99");
        assert_eq!(id(), own, "the first card is replaced, the second is still there");
        put(root, "sys/class/dmi/id/product_uuid", "4c4c4544-0042-3510-8054-b4c04f4e3132");
        assert_eq!(id(), own, "started as root");
        let elsewhere = tempfile::tempdir().unwrap();
        interface(elsewhere.path(), "eth0", "pci/0000:01", "00:1b:21:01:02:77", "0");
        assert!(start(directory, elsewhere.path(), 7, 60, 101).drawn);
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_store_is_not_believed() {
        let (root, directory) = (pi("10000000aaaa0001"), tempfile::tempdir().unwrap());
        let file = directory.path().join(FILE);
        start(directory.path(), root.path(), 7, 0, 100);
        assert_eq!(start(directory.path(), root.path(), 8, 0, 101), Bound { id: 8.into(), drawn: false }, "a new store");
        let text = fs::read_to_string(&file).unwrap();
        for damaged in [text.replace("aaaa0001", "aaaa0002"), String::new(), "\u{0}\u{0}".into(), text[..20].into()] {
            fs::write(&file, &damaged).unwrap();
            let id = AgentId { now: 102, earlier: Some((8, 30)) };
            assert_eq!(start(directory.path(), root.path(), 8, 30, 102), Bound { id, drawn: true }, "{damaged:?}");
            assert_eq!(start(directory.path(), root.path(), 8, 30, 103), Bound { id, drawn: false });
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(
            start(directory.path(), root.path(), 8, 30, 104),
            Bound { id: 8.into(), drawn: false },
            "who removes it says it is the first"
        );
    }

    #[test]
    fn what_can_t_be_synced_takes_the_place_of_nothing() {
        let (root, directory) = (pi("10000000aaaa0001"), tempfile::tempdir().unwrap());
        start(directory.path(), root.path(), 7, 0, 100);
        let file = directory.path().join(FILE);
        let before = fs::read(&file).unwrap();
        // A device takes what is written to it and keeps nothing.
        std::os::unix::fs::symlink("/dev/null", file.with_extension("new")).unwrap();
        let other = Known { store: 8, id: 8.into(), machine: Machine::default() };
        assert!(other.save(&file).is_err());
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn where_nothing_can_be_written_the_agent_starts_all_the_same() {
        let root = pi("10000000aaaa0001");
        let nowhere = root.path().join("none");
        assert_eq!(start(&nowhere, root.path(), 7, 0, 100), Bound { id: 7.into(), drawn: false });
    }
}

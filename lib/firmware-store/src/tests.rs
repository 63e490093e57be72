use super::*;
use proptest::prelude::*;
use std::{
    cell::Cell,
    fs::{self, OpenOptions},
    io::{self, Read, Seek},
    os::fd::OwnedFd,
    path::Path,
};

fn key() -> StoreKey {
    StoreKey::derive(b"what the TPM sealed", None)
}

fn folder(path: &Path) -> Folder {
    Folder::open_to_change(path).unwrap()
}

/// Three images of which one is in both, and a secret.
fn old(store: &mut Store<impl Disk>) -> [Digest; 2] {
    let mut change = store.change();
    let images = [change.put(b"the card as it was").unwrap(), change.put(b"the kernel").unwrap()];
    change.set_secret("auth", b"old");
    change.commit().unwrap();
    images
}

fn update<D: Disk>(store: &mut Store<D>) -> Result<(), Error> {
    let mut change = store.change();
    let kept = [change.put(b"the card as it is now, longer")?, change.put(b"the kernel")?, change.put(&[])?];
    change.set_secret("auth", b"new");
    change.retain(|sha256| kept.contains(sha256));
    change.commit()
}

fn contents<D: Disk>(store: &Store<D>) -> Vec<Vec<u8>> {
    assert!(store.verify().is_empty());
    let mut all: Vec<_> = store.blobs().map(|blob| store.bytes(&blob.sha256, blob.length).unwrap()).collect();
    all.sort();
    all.push(store.secret("auth").unwrap().to_vec());
    all
}

const OLD: [&[u8]; 3] = [b"the card as it was", b"the kernel", b"old"];
const NEW: [&[u8]; 4] = [b"", b"the card as it is now, longer", b"the kernel", b"new"];

#[test]
fn what_was_put_in_comes_out_in_memory_that_nobody_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(folder(dir.path()), key()).unwrap();
    let [card, _] = old(&mut store);
    assert!(matches!(Folder::open(dir.path()), Err(Error::InUse)), "two at once");
    drop(store);
    let store = Store::open(Folder::open(dir.path()).unwrap(), key()).unwrap();
    assert_eq!(contents(&store), OLD);
    let image: OwnedFd = store.image(&card, "volume card").unwrap();
    let mut image = fs::File::from(image);
    image.rewind().unwrap();
    let mut bytes = Vec::new();
    image.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, OLD[0]);
    assert!(io::Write::write(&mut image, b"x").is_err() && image.set_len(3).is_err());
    assert!(matches!(store.image(&[0; 32], "none"), Err(Error::Image(_))));
    assert!(matches!(store.bytes(&card, 3), Err(Error::Image(_))));
    for name in fs::read_dir(dir.path()).unwrap() {
        let file = fs::read(name.unwrap().path()).unwrap();
        for plain in [OLD[0], OLD[1], b"auth"] {
            assert!(!file.windows(plain.len()).any(|part| part == plain), "content in the clear");
        }
    }
}

#[test]
fn large_images_have_chunks_and_equal_images_have_unequal_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(folder(dir.path()), key()).unwrap();
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let content: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut change = store.change();
        let sha256 = change.put(&content).unwrap();
        change.commit().unwrap();
        assert_eq!(store.bytes(&sha256, content.len() as u64).unwrap(), content);
    }
    let [first, second] = [0, 1].map(|_| blob::seal(b"the same").unwrap());
    assert_eq!(first.0.sha256, second.0.sha256);
    assert_ne!(first.1, second.1);
}

/// A disk whose power goes after so many bytes; a name counts as one.
struct Cut<'a> {
    folder: Folder,
    left: &'a Cell<usize>,
}

impl Cut<'_> {
    fn spend(&self, wanted: usize) -> Result<usize, usize> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(wanted));
        if wanted <= left && left > 0 { Ok(wanted) } else { Err(left) }
    }

    fn step(&self) -> io::Result<()> {
        self.spend(1).map(drop).map_err(|_| io::Error::other("power cut"))
    }
}

impl Disk for Cut<'_> {
    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.folder.open(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        match self.spend(bytes.len()) {
            Ok(_) => self.folder.write(name, bytes),
            Err(written) => {
                self.folder.write(name, &bytes[..written])?;
                Err(io::Error::other("power cut"))
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?;
        self.folder.remove(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.folder.names()
    }
}

#[test]
fn a_power_cut_at_any_byte_of_an_update_leaves_the_old_or_the_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let left = Cell::new(usize::MAX);
    let (mut olds, mut news) = (0, 0);
    for bytes in 0.. {
        let path = dir.path().join(bytes.to_string());
        old(&mut Store::create(folder(&path), key()).unwrap());
        left.set(usize::MAX);
        let mut store = Store::open(Cut { folder: folder(&path), left: &left }, key()).unwrap();
        left.set(bytes);
        let done = update(&mut store);
        let over = left.get() > 0;
        drop(store);
        let mut store = Store::open(folder(&path), key()).unwrap();
        let found = contents(&store);
        if found == OLD {
            assert!(done.is_err());
            olds += 1;
        } else {
            assert_eq!(found, NEW, "cut after {bytes} bytes");
            news += 1;
        }
        update(&mut store).unwrap();
        assert_eq!(contents(&store), NEW, "again, after a cut after {bytes} bytes");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 4, "an index and three blobs, nothing is left over");
        fs::remove_dir_all(&path).unwrap();
        if over {
            break;
        }
    }
    assert!(olds > 500 && news > 1, "{olds} cuts before, {news} after");
}

#[test]
fn a_full_disk_changes_nothing() {
    struct Full(Folder);
    impl Disk for Full {
        fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
            self.0.open(name)
        }
        fn write(&self, _: &str, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }
        fn names(&self) -> io::Result<Vec<String>> {
            self.0.names()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    old(&mut Store::create(folder(dir.path()), key()).unwrap());
    let mut store = Store::open(Full(folder(dir.path())), key()).unwrap();
    assert!(matches!(update(&mut store), Err(Error::Full)));
    assert_eq!(contents(&store), OLD);
}

#[test]
fn a_store_has_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(folder(dir.path()), key()).unwrap();
    let mut change = store.change();
    for n in 0..MAX_BLOBS {
        change.put(&n.to_be_bytes()).unwrap();
    }
    assert!(matches!(change.put(b"one more"), Err(Error::Full)));
    change.put(&0usize.to_be_bytes()).unwrap();
    change.set_secret("auth", &[7; MAX_SECRET]);
    change.commit().unwrap();
    let mut change = store.change();
    change.set_secret("auth", &[7; MAX_SECRET + 1]);
    assert!(matches!(change.commit(), Err(Error::Full)));
    assert_eq!(store.secret("auth").unwrap().len(), MAX_SECRET);
}

#[test]
fn every_changed_byte_of_every_file_is_found_and_said_to_be_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let [card, _] = old(&mut Store::create(folder(dir.path()), key()).unwrap());
    let (index, blob) = (dir.path().join("index"), dir.path().join(folder::name(&card)));
    let sum = Folder::open(dir.path()).unwrap().sum(&card).unwrap();
    // What follows the magic, the version and the producer: a version is told as such.
    for path in [&index, &blob] {
        let whole = fs::read(path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(path, bytes).unwrap();
            let folder = Folder::open(dir.path()).unwrap();
            let changed = folder.sum(&card).unwrap() != sum;
            assert_eq!(changed, path == &blob, "byte {at}");
            match Store::open(folder, key()) {
                Err(Error::Index) => assert_eq!(path, &index),
                Err(Error::Version(_)) => assert!(path == &index && (8..10).contains(&at)),
                // Who wrote it is for people.
                Ok(_) if path == &index => assert!((10..26).contains(&at), "byte {at}"),
                Ok(store) => {
                    let faults = store.verify();
                    assert!(faults.len() == 1 && faults[0].0 == card, "byte {at}");
                }
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        for length in [0, 1, whole.len() - 1] {
            fs::write(path, &whole[..length]).unwrap();
            let store = Store::open(Folder::open(dir.path()).unwrap(), key());
            assert!(store.is_err() || store.unwrap().bytes(&card, 100).is_err(), "length {length}");
        }
        fs::write(path, [&whole[..], &[0]].concat()).unwrap();
        let store = Store::open(Folder::open(dir.path()).unwrap(), key());
        assert!(store.is_err() || store.unwrap().bytes(&card, 100).is_err(), "one byte more");
        fs::write(path, whole).unwrap();
    }
    fs::remove_file(&blob).unwrap();
    assert!(matches!(Folder::open(dir.path()).unwrap().sum(&card), Err(Error::Blob(_))));
    fs::remove_file(&index).unwrap();
    assert!(matches!(Store::open(Folder::open(dir.path()).unwrap(), key()), Err(Error::Index)));
}

#[test]
fn an_image_in_anothers_place_or_from_an_earlier_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(folder(dir.path()), key()).unwrap();
    let [card, kernel] = old(&mut store);
    let [card_file, kernel_file] = [card, kernel].map(|sha256| dir.path().join(folder::name(&sha256)));
    let before = fs::read(&card_file).unwrap();
    fs::copy(&kernel_file, &card_file).unwrap();
    assert!(matches!(store.bytes(&card, 100), Err(Error::Blob(found)) if found == card));
    // The same content, encrypted for an earlier index.
    drop(store);
    let mut store = Store::create(folder(dir.path()), key()).unwrap();
    old(&mut store);
    fs::write(&card_file, before).unwrap();
    assert!(matches!(store.bytes(&card, 100), Err(Error::Blob(_))));
    // A pipe in its place keeps nobody waiting.
    fs::remove_file(&card_file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &card_file, rustix::fs::Mode::RUSR).unwrap();
    assert!(store.bytes(&card, 100).is_err());
    fs::remove_file(&card_file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &card_file).unwrap();
    assert!(store.bytes(&card, 100).is_err());
}

#[test]
fn without_the_tpms_secret_or_the_removable_half_there_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let keys = [
        StoreKey::derive(b"secret", Some(&[1; REMOVABLE])),
        StoreKey::derive(b"secret", None),
        StoreKey::derive(b"secret", Some(&[2; REMOVABLE])),
        StoreKey::derive(b"secret", Some(&[0; REMOVABLE])),
        StoreKey::derive(b"another", Some(&[1; REMOVABLE])),
    ];
    let [right, wrong @ ..] = keys;
    old(&mut Store::create(folder(dir.path()), right).unwrap());
    for key in wrong {
        assert!(matches!(Store::open(Folder::open(dir.path()).unwrap(), key), Err(Error::Closed)));
    }
    let right = StoreKey::derive(b"secret", Some(&[1; REMOVABLE]));
    assert_eq!(contents(&Store::open(Folder::open(dir.path()).unwrap(), right).unwrap()), OLD);
}

#[test]
fn lengths_that_no_image_has_are_refused() {
    let (_, file) = blob::seal(b"image").unwrap();
    let mut long = file.clone();
    long[26..34].fill(0xff);
    for length in [0, 5, MAX_IMAGE + 1, u64::MAX - 5, u64::MAX] {
        assert!(matches!(hostile::blob(&long, sha256(b"image"), length), Err(Error::Blob(_))), "{length}");
    }
}

#[test]
fn a_later_format_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    old(&mut Store::create(folder(dir.path()), key()).unwrap());
    let path = dir.path().join("index");
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(io::SeekFrom::Start(8)).unwrap();
    io::Write::write_all(&mut file, &[0, 2]).unwrap();
    assert!(matches!(Store::open(Folder::open(dir.path()).unwrap(), key()), Err(Error::Version(2))));
}

proptest! {
    #[test]
    fn hostile_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(hostile::index(&bytes).is_err());
        prop_assert!(hostile::blob(&bytes, [1; 32], bytes.len() as u64).is_err());
        if let Some(again) = hostile::table(&bytes) {
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_table_reads_back(blobs in 0..MAX_BLOBS, secret in proptest::collection::vec(any::<u8>(), 0..MAX_SECRET)) {
        let mut table = index::Table::default();
        for n in 0..blobs {
            let sha256 = sha256(&n.to_be_bytes());
            table.blobs.insert(sha256, Blob { sha256, length: n as u64, sum: [3; 32], key: [4; 32].into() });
        }
        table.secrets.insert("name".to_owned(), secret.into());
        let bytes = table.encode().unwrap();
        let again = index::Table::parse(&bytes).unwrap();
        prop_assert_eq!(&again.encode().unwrap(), &bytes);
        prop_assert!(index::Table::parse(&bytes[..bytes.len() - 1]).is_none());
    }
}

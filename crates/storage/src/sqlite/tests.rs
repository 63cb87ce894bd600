//! Tests of the data folder and of grouped commits.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, mpsc};

use dunlin_model::{ConnectionState, Twin};
use rusqlite::Connection;
use tempfile::tempdir;
use tokio::sync::oneshot;

use super::{DataFolder, FolderError, Sqlite, migrations};
use crate::device_store::{ConnectionStore, SqliteDeviceStore};
use crate::twin_store::SqliteTwinStore;
use crate::{DeviceStore, StoreError, TwinStore};

async fn add(sqlite: &Sqlite, name: &'static str) -> Result<(), StoreError> {
    sqlite
        .write(move |db| {
            db.execute("INSERT INTO sequence VALUES (?1, 1)", [name])?;
            Ok(())
        })
        .await
}

async fn names(sqlite: &Sqlite) -> Vec<String> {
    let read = sqlite.read(|db| {
        let mut names = db.prepare("SELECT name FROM sequence ORDER BY name")?;
        let names = names.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    });
    read.await.expect("read")
}

type Stalled = tokio::task::JoinHandle<Result<(), StoreError>>;

/// Holds the writer inside an operation until the sender is used: what is asked for meanwhile
/// goes into one transaction.
async fn stall(sqlite: &Sqlite) -> (mpsc::Sender<()>, Stalled) {
    let (go, wait) = mpsc::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let sqlite = sqlite.clone();
    let stalled = tokio::spawn(async move {
        sqlite
            .write(move |_| {
                let _ = begun.send(());
                let _ = wait.recv();
                Ok(())
            })
            .await
    });
    begins.await.expect("begun");
    (go, stalled)
}

#[test]
fn the_folder_is_for_its_owner_only() {
    let temp = tempdir().expect("temp");
    let path = temp.path().join("new");
    let folder = DataFolder::open(&path).expect("open");
    let mode = folder.path().metadata().expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let temp = tempdir().expect("temp");
    let first = DataFolder::open(temp.path()).expect("open");
    let handle = first.sqlite();
    drop(first);
    let Err(error) = DataFolder::open(temp.path()) else { panic!("opened twice") };
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(text.contains(&temp.path().display().to_string()), "{text}");
    assert!(matches!(error, FolderError::InUse { .. }));
    drop(handle);
    DataFolder::open(temp.path()).expect("free again");
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let temp = tempdir().expect("temp");
    drop(DataFolder::open(temp.path()).expect("open"));
    let database = Connection::open(temp.path().join("hub.sqlite")).expect("database");
    database.pragma_update(None, "user_version", 99).expect("version");
    drop(database);
    let Err(error) = DataFolder::open(temp.path()) else { panic!("opened a newer folder") };
    let text = error.to_string();
    assert!(text.contains("newer version") && text.contains("99"), "{text}");
}

#[tokio::test]
async fn an_older_schema_is_migrated_with_what_it_holds() {
    let temp = tempdir().expect("temp");
    let old = Connection::open(temp.path().join("hub.sqlite")).expect("database");
    old.execute_batch(migrations::MIGRATIONS[0]).expect("schema 1");
    old.pragma_update(None, "user_version", 1).expect("version");
    old.execute("INSERT INTO sequence VALUES ('kept', 7)", []).expect("row");
    drop(old);
    let sqlite = DataFolder::open(temp.path()).expect("open").sqlite();
    assert_eq!(names(&sqlite).await, ["kept"]);
    let groups = sqlite.read(|db| {
        Ok(db.query_row("SELECT count(*) FROM group_position", [], |row| row.get::<_, u32>(0))?)
    });
    assert_eq!(groups.await.expect("the new table"), 0);
}

#[tokio::test]
async fn a_connection_of_schema_7_is_nobodys() {
    let temp = tempdir().expect("temp");
    let old = Connection::open(temp.path().join("hub.sqlite")).expect("database");
    for step in &migrations::MIGRATIONS[..7] {
        old.execute_batch(step).expect("a step");
    }
    old.pragma_update(None, "user_version", 7).expect("version");
    let row = "INSERT INTO device_state (device_id, module_id, epoch, connected,
                   connection_updated, last_activity) VALUES ('d', '', 5, 1, 1, 1)";
    old.execute(row, []).expect("row");
    drop(old);
    let store = SqliteDeviceStore::new(DataFolder::open(temp.path()).expect("open").sqlite());
    assert_eq!(store.node_list().await.expect("list"), [""]);
    assert_eq!(store.node_end("", 9, 9).await.expect("end"), 1);
    assert!(store.node_list().await.expect("list").is_empty());
}

#[tokio::test]
async fn identities_of_schema_2_are_read_after_the_migration() {
    let temp = tempdir().expect("temp");
    let old = Connection::open(temp.path().join("hub.sqlite")).expect("database");
    for step in &migrations::MIGRATIONS[..2] {
        old.execute_batch(step).expect("a step");
    }
    old.pragma_update(None, "user_version", 2).expect("version");
    let row = "INSERT INTO identity VALUES
               ('d', '', 'g', 'e', 'disabled', NULL, 5, 'sas', x'01', 7)";
    old.execute(row, []).expect("row");
    drop(old);
    let sqlite = DataFolder::open(temp.path()).expect("open").sqlite();
    let twins = SqliteTwinStore::new(sqlite.clone());
    let store: Arc<dyn DeviceStore> = Arc::new(SqliteDeviceStore::new(sqlite));
    let device = store.device_list("", 1).await.expect("list").remove(0);
    assert_eq!((device.auth_version, device.iot_edge, device.device_scope), (7, false, None));
    assert!(device.parent_scopes.is_empty());
    assert_eq!(device.connection, ConnectionState::default());
    let counted = store.device_statistics().await.expect("count");
    assert_eq!((counted.devices, counted.disabled, counted.connected), (1, 1, 0));

    let stored = twins.twin_get(&device.id).await.expect("read").expect("it got a twin").twin;
    // As a new one, but for the time.
    let mut new = Twin::new(0);
    for (new, stored) in
        [(&mut new.desired, &stored.desired), (&mut new.reported, &stored.reported)]
    {
        let time = stored.metadata["$lastUpdated"].as_str().expect("a time");
        assert_eq!((time.len(), &time[..2]), (28, "20"), "{time}");
        assert!(new.metadata.insert("$lastUpdated".into(), time.into()).is_some());
    }
    assert_eq!(stored, new);
}

#[tokio::test]
async fn a_failing_neighbour_disturbs_nobody() {
    let temp = tempdir().expect("temp");
    let sqlite = DataFolder::open(temp.path()).expect("open").sqlite();
    let (go, stalled) = stall(&sqlite).await;
    let refused = sqlite.write(|db| {
        db.execute("INSERT INTO sequence VALUES ('undone', 1)", [])?;
        Err::<(), _>(StoreError::NotFound)
    });
    let panicking = sqlite.write(|db| -> Result<(), StoreError> {
        db.execute("INSERT INTO sequence VALUES ('undone too', 1)", [])?;
        panic!("on purpose")
    });
    let release = async { go.send(()).expect("stalled") };
    let (a, refused, panicking, b, ()) =
        tokio::join!(add(&sqlite, "a"), refused, panicking, add(&sqlite, "b"), release);
    a.expect("a");
    b.expect("b");
    assert!(matches!(refused, Err(StoreError::NotFound)));
    assert!(matches!(panicking, Err(StoreError::Unavailable { .. })));
    stalled.await.expect("join").expect("stalled");
    assert_eq!(names(&sqlite).await, ["a", "b"]);
}

#[tokio::test]
async fn a_failed_commit_fails_all_of_it_and_nothing_after() {
    let temp = tempdir().expect("temp");
    let sqlite = DataFolder::open(temp.path()).expect("open").sqlite();
    let schema = sqlite.write(|db| {
        Ok(db.execute_batch(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY);
             CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED);",
        )?)
    });
    schema.await.expect("schema");
    let (go, stalled) = stall(&sqlite).await;
    // The violation shows at COMMIT only.
    let orphan = sqlite.write(|db| Ok(db.execute("INSERT INTO child VALUES (1)", [])?));
    let release = async { go.send(()).expect("stalled") };
    let (a, orphan, ()) = tokio::join!(add(&sqlite, "a"), orphan, release);
    assert!(matches!(a, Err(StoreError::Unavailable { .. })));
    assert!(matches!(orphan, Err(StoreError::Unavailable { .. })));
    assert!(names(&sqlite).await.is_empty());
    stalled.await.expect("join").expect("a transaction of its own");
    add(&sqlite, "after").await.expect("the writer goes on");
}

#[test]
fn the_last_handle_waits_for_what_was_asked() {
    let temp = tempdir().expect("temp");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let sqlite = DataFolder::open(temp.path()).expect("open").sqlite();
    runtime.block_on(async {
        // Asked for, then not waited for.
        tokio::select! { biased; _ = add(&sqlite, "a") => {}, () = async {} => {} }
    });
    drop(sqlite);
    let sqlite = DataFolder::open(temp.path()).expect("reopen").sqlite();
    assert_eq!(runtime.block_on(names(&sqlite)), ["a"]);
}

#[test]
fn reads_see_writes_from_any_runtime() {
    let temp = tempdir().expect("temp");
    let sqlite = DataFolder::open(temp.path()).expect("open").sqlite();
    for name in ["a", "b", "c"] {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            add(&sqlite, name).await.expect("add");
            assert!(names(&sqlite).await.iter().any(|n| n == name));
        });
    }
}

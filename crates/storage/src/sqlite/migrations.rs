//! The schema, as numbered steps forward. A step that was released is never edited.

use rusqlite::Connection;

/// Step n brings a database of version n - 1 to version n.
pub(super) const MIGRATIONS: &[&str] = &[
    // 1: identities and what every hub has one of. The device id comes first in every key: it is
    // the distribution key. A device's own row has the module id ''.
    "CREATE TABLE identity (
        device_id TEXT NOT NULL,
        module_id TEXT NOT NULL,
        generation_id TEXT NOT NULL,
        etag TEXT NOT NULL,
        status TEXT NOT NULL,
        status_reason TEXT,
        status_updated INTEGER NOT NULL,
        auth_type TEXT NOT NULL,
        credentials BLOB NOT NULL,
        auth_version INTEGER NOT NULL,
        PRIMARY KEY (device_id, module_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX identity_device ON identity (device_id) WHERE module_id = '';
    CREATE TABLE setting (
        name TEXT NOT NULL PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sequence (
        name TEXT NOT NULL PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;",
    // 2: how far consumer groups of the event log have come.
    "CREATE TABLE group_position (
        topic TEXT NOT NULL,
        consumer_group TEXT NOT NULL,
        partition INTEGER NOT NULL,
        next INTEGER NOT NULL,
        PRIMARY KEY (topic, consumer_group, partition)
    ) STRICT, WITHOUT ROWID;",
    // 3: IoT Edge and who manages a module; connections, apart from identities because they are
    // written far more often; what statistics count.
    "ALTER TABLE identity ADD COLUMN iot_edge INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE identity ADD COLUMN device_scope TEXT;
    ALTER TABLE identity ADD COLUMN parent_scopes TEXT NOT NULL DEFAULT '';
    ALTER TABLE identity ADD COLUMN managed_by TEXT;
    CREATE INDEX identity_disabled ON identity (device_id)
        WHERE status = 'disabled' AND module_id = '';
    CREATE TABLE device_state (
        device_id TEXT NOT NULL,
        module_id TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        connected INTEGER NOT NULL,
        connection_updated INTEGER NOT NULL,
        last_activity INTEGER NOT NULL,
        PRIMARY KEY (device_id, module_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX device_state_connected ON device_state (epoch, module_id) WHERE connected = 1;",
    // 4: what outlives a connection, and what twins show of certificates.
    "ALTER TABLE identity ADD COLUMN thumbprints TEXT;
    ALTER TABLE device_state ADD COLUMN session_epoch INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE device_state ADD COLUMN subscriptions INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE device_state ADD COLUMN model_id TEXT;",
    // 5: twins, JSON in the text columns. An identity from before gets the twin it would have been
    // made with. Rows are long: a table with a rowid keeps them out of the index.
    "CREATE TABLE twin (
        device_id TEXT NOT NULL,
        module_id TEXT NOT NULL,
        etag INTEGER NOT NULL,
        version INTEGER NOT NULL,
        tags TEXT NOT NULL,
        desired TEXT NOT NULL,
        desired_metadata TEXT NOT NULL,
        desired_version INTEGER NOT NULL,
        reported TEXT NOT NULL,
        reported_metadata TEXT NOT NULL,
        reported_version INTEGER NOT NULL,
        PRIMARY KEY (device_id, module_id)
    ) STRICT;
    INSERT INTO twin SELECT device_id, module_id, 1, 2, '{}',
        '{}', json_object('$lastUpdated', now, '$lastUpdatedVersion', 1), 1,
        '{}', json_object('$lastUpdated', now), 1
        FROM identity, (SELECT strftime('%Y-%m-%dT%H:%M:%f0000Z', 'now') AS now);",
    // 6: which connection of a device has reported last.
    "ALTER TABLE twin ADD COLUMN reported_epoch INTEGER NOT NULL DEFAULT 0;",
    // 7: C2D messages. `due` is when a look at a message is due: the end of its lock, or of its life
    // if it has none. `command_queue` has a row of who was ever sent something. Feedback waits by
    // itself (`batch` NULL) until it is handed out in a batch.
    "CREATE TABLE command_queue (
        device_id TEXT NOT NULL PRIMARY KEY,
        sequence INTEGER NOT NULL,
        epoch INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE command (
        device_id TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        message_id TEXT,
        correlation_id TEXT,
        user_id TEXT,
        content_type TEXT,
        content_encoding TEXT,
        ack TEXT NOT NULL,
        properties TEXT NOT NULL,
        enqueued INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        due INTEGER NOT NULL,
        delivery_count INTEGER NOT NULL,
        lock_token BLOB,
        lock_epoch INTEGER,
        body BLOB NOT NULL,
        PRIMARY KEY (device_id, sequence)
    ) STRICT;
    CREATE INDEX command_due ON command (due);
    CREATE TABLE feedback (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL,
        generation_id TEXT NOT NULL,
        message_id TEXT NOT NULL,
        outcome TEXT NOT NULL,
        enqueued INTEGER NOT NULL,
        batch INTEGER
    ) STRICT;
    CREATE INDEX feedback_device ON feedback (device_id);
    CREATE INDEX feedback_of_batch ON feedback (batch, id);
    CREATE INDEX feedback_enqueued ON feedback (enqueued);
    CREATE TABLE feedback_batch (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        enqueued INTEGER NOT NULL,
        delivery_count INTEGER NOT NULL,
        lock_token BLOB,
        lock_until INTEGER NOT NULL
    ) STRICT;",
    // 8: which node holds a connection, so that those of a dead one can be ended. Who was connected
    // before is nobody's ('').
    "ALTER TABLE device_state ADD COLUMN node TEXT;
    UPDATE device_state SET node = '' WHERE connected = 1;
    DROP INDEX device_state_connected;
    CREATE INDEX device_state_connected ON device_state (node, device_id, module_id)
        WHERE connected = 1;",
];

pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Each step is one transaction with its version: a crash leaves a whole version behind.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let from = version(connection)?;
    for (number, step) in (1u32..).zip(MIGRATIONS).skip(from as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
        if from > 0 {
            tracing::info!(version = number, "migrated the data folder");
        }
    }
    Ok(())
}

//! What due jobs need besides a call: which of them have media too large for the request, and how
//! far each key is with those.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::sqlite::SqliteConnection;

use crate::domain::outcome::ErrorKind;
use crate::domain::plan::{Candidate, Grant};
use crate::domain::time::Timestamp;
use crate::domain::upload::{Progress, inline_size};
use crate::store::claim::Claimant;
use crate::store::media::{self, ClaimedMedia, ClaimedSource, FileStamp, JobMedia};
use crate::store::turn::{Claimed, Policy};
use crate::store::uploads::Order;
use crate::store::waits::{self, HASH, ROOM};
use crate::store::{StoreError, bulk};

/// What a worker can still take on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room<'a> {
    /// How many more orders.
    pub(super) orders: usize,
    /// Files whose content it is finding out.
    pub(super) hashing: &'a [FileStamp],
    /// The address that it uploads to.
    pub(super) api: &'a str,
}

/// What the candidates of one turn need.
#[derive(Debug, Default)]
pub(super) struct Needs {
    media: HashMap<i64, JobMedia>,
    /// Jobs whose media are uploaded, with the time at which they are due.
    large: HashMap<i64, Timestamp>,
    /// What is in files, or why they cannot be read.
    contents: HashMap<FileStamp, Result<String, String>>,
    uploads: HashMap<Place, Upload>,
    /// Jobs that wait for a hash.
    unhashed: Vec<i64>,
}

/// The key, the content and the type that an upload is known by.
type Place = (i64, String, String);

/// An upload as a turn sees it.
#[derive(Debug, Clone)]
struct Upload {
    id: i64,
    progress: Progress,
    uri: Option<String>,
    /// The API's name for a file that is not ready and that nobody asks for.
    unattended: Option<String>,
}

#[derive(sqlx::FromRow)]
struct UploadRow {
    id: i64,
    key_id: i64,
    sha256: String,
    mime_type: String,
    state: String,
    worker_id: Option<i64>,
    name: Option<String>,
    uri: Option<String>,
    error_kind: Option<String>,
    message: Option<String>,
}

impl TryFrom<UploadRow> for Upload {
    type Error = StoreError;

    fn try_from(row: UploadRow) -> Result<Self, StoreError> {
        let progress = match (row.state.as_str(), row.error_kind) {
            ("ready", _) => Progress::Ready,
            ("uploading" | "processing", _) => Progress::UnderWay,
            (_, kind) => {
                let kind = kind.unwrap_or_default().parse().map_err(StoreError::Value)?;
                Progress::Failed(kind, row.message.unwrap_or_default())
            }
        };
        let is_unattended = progress == Progress::UnderWay && row.worker_id.is_none();
        Ok(Self {
            id: row.id,
            progress,
            uri: row.uri,
            unattended: row.name.filter(|_| is_unattended),
        })
    }
}

impl Needs {
    /// Reads what `candidates` need and tells it to them; those of which it is not known yet what
    /// is in their files are taken out.
    pub(super) async fn read(
        connection: &mut SqliteConnection,
        candidates: &mut Vec<Candidate>,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let jobs: Vec<i64> = candidates.iter().map(|job| job.job).collect();
        let mut needs = Self { media: media::of_jobs(connection, &jobs).await?, ..Self::default() };
        for candidate in candidates.iter() {
            let Some(media) = needs.media.get(&candidate.job) else { continue };
            let sizes = media.media.iter().map(|item| (item.mime_type.len(), item.size));
            if inline_size(media.request, sizes) > policy.inline_limit {
                needs.large.insert(candidate.job, candidate.due_at);
            }
        }
        if needs.large.is_empty() {
            return Ok(needs);
        }
        needs.read_contents(connection, now).await?;
        needs.read_uploads(connection, &policy.api, now).await?;
        let keys: HashSet<i64> = needs.uploads.keys().map(|(key, ..)| *key).collect();
        candidates.retain_mut(|candidate| needs.tell(candidate, &keys));
        Ok(needs)
    }

    async fn read_contents(
        &mut self,
        connection: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let paths: BTreeSet<&str> =
            self.large_media().filter_map(file).map(|file| file.path.as_str()).collect();
        let rows: Vec<(String, i64, i64, Option<String>, Option<String>)> = sqlx::query_as(
            "SELECT c.path, c.size, c.modified, c.sha256, c.message
               FROM json_each(?1) AS e CROSS JOIN contents AS c ON c.path = e.value
              WHERE c.until IS NULL OR c.until > ?2",
        )
        .bind(bulk::json(&paths)?)
        .bind(now.0)
        .fetch_all(connection)
        .await?;
        for (path, size, modified, sha256, message) in rows {
            let file = FileStamp { path, size: u64::try_from(size).unwrap_or(0), modified };
            self.contents.insert(file, sha256.ok_or_else(|| message.unwrap_or_default()));
        }
        Ok(())
    }

    async fn read_uploads(
        &mut self,
        connection: &mut SqliteConnection,
        api: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let hashes: BTreeSet<&str> =
            self.large_media().filter_map(|media| self.hash(media)?.ok()).collect();
        let rows: Vec<UploadRow> = sqlx::query_as(
            "SELECT u.id, u.key_id, u.sha256, u.mime_type, u.state, u.worker_id, u.name, u.uri,
                    u.error_kind, u.message
               FROM json_each(?1) AS e CROSS JOIN uploads AS u ON u.sha256 = e.value
              WHERE u.api = ?2 AND (u.until IS NULL OR u.until > ?3)",
        )
        .bind(bulk::json(&hashes)?)
        .bind(api)
        .bind(now.0)
        .fetch_all(connection)
        .await?;
        for row in rows {
            let place = (row.key_id, row.sha256.clone(), row.mime_type.clone());
            self.uploads.insert(place, row.try_into()?);
        }
        Ok(())
    }

    fn large_media(&self) -> impl Iterator<Item = &ClaimedMedia> {
        self.large.keys().flat_map(|job| &self.media[job].media)
    }

    /// Returns the hash of a medium, or why there is none; absent where nobody has looked.
    fn hash<'a>(&'a self, media: &'a ClaimedMedia) -> Option<Result<&'a str, &'a str>> {
        match &media.source {
            ClaimedSource::Blob { sha256, .. } => Some(Ok(sha256)),
            ClaimedSource::File(file) => {
                let content = self.contents.get(file)?;
                Some(content.as_ref().map(String::as_str).map_err(String::as_str))
            }
        }
    }

    fn upload(&self, key: i64, media: &ClaimedMedia) -> Option<&Upload> {
        let sha256 = self.hash(media)?.ok()?;
        self.uploads.get(&(key, sha256.to_owned(), media.mime_type.clone()))
    }

    /// Tells a candidate how far each of `keys` is; returns whether the plan can do something with it.
    /// One whose file cannot be read has to be claimed, to be told so.
    fn tell(&mut self, candidate: &mut Candidate, keys: &HashSet<i64>) -> bool {
        if !self.large.contains_key(&candidate.job) || self.fault(candidate.job).is_some() {
            return true;
        }
        let media = &self.media[&candidate.job].media;
        if media.iter().any(|media| self.hash(media).is_none()) {
            self.unhashed.push(candidate.job);
            return false;
        }
        let of = |key, media| {
            let known = self.upload(key, media).map(|upload| upload.progress.clone());
            known.unwrap_or(Progress::Missing)
        };
        let all = |key| media.iter().map(|media| of(key, media)).reduce(Progress::and);
        let progress = keys.iter().filter_map(|&key| Some((key, all(key)?)));
        candidate.uploads = Some(progress.collect());
        true
    }

    /// Returns why a file of the job cannot be read.
    fn fault(&self, job: i64) -> Option<(ErrorKind, String)> {
        let media = &self.media.get(&job)?.media;
        let reason = media.iter().find_map(|media| self.hash(media)?.err())?;
        Some((ErrorKind::Media, reason.to_owned()))
    }

    /// Orders what is missing for the jobs that wait for it, and puts those off.
    pub(super) async fn prepare(
        &mut self,
        connection: &mut SqliteConnection,
        grants: &[Grant],
        claimant: Claimant,
        mut room: Room<'_>,
    ) -> Result<Vec<Order>, StoreError> {
        let mut orders = Vec::new();
        let mut put_off = Vec::new();
        for job in std::mem::take(&mut self.unhashed) {
            let subject = self.order_hashes(job, &mut room, &mut orders);
            put_off.push((job, self.large[&job], vec![subject]));
        }
        for Grant { job, key, .. } in grants {
            let mut subjects = Vec::new();
            for media in self.media[job].media.clone() {
                let order = self.order(connection, claimant, (*key, &media), &mut room).await?;
                subjects.extend(order.subject);
                orders.extend(order.order);
            }
            put_off.push((*job, self.large[job], subjects));
        }
        if !put_off.is_empty() {
            waits::put_off(connection, &put_off, claimant.moment.now).await?;
        }
        Ok(orders)
    }

    fn order_hashes(&self, job: i64, room: &mut Room<'_>, orders: &mut Vec<Order>) -> String {
        let mut subject = HASH;
        for media in &self.media[&job].media {
            let Some(file) = file(media).filter(|_| self.hash(media).is_none()) else { continue };
            let order = Order::Hash(file.clone());
            if room.hashing.contains(file) || orders.contains(&order) {
                continue;
            }
            if room.take() {
                orders.push(order);
            } else {
                subject = ROOM;
            }
        }
        subject.to_owned()
    }

    /// Orders what is missing of one medium for one key.
    async fn order(
        &mut self,
        connection: &mut SqliteConnection,
        claimant: Claimant,
        (key, media): (i64, &ClaimedMedia),
        room: &mut Room<'_>,
    ) -> Result<Ordered, StoreError> {
        let Some(Ok(sha256)) = self.hash(media) else { return Ok(Ordered::default()) };
        let place = (key, sha256.to_owned(), media.mime_type.clone());
        match self.uploads.get_mut(&place) {
            Some(upload) if upload.progress.is_settled() => return Ok(Ordered::default()),
            Some(upload) => {
                let id = upload.id;
                let mut ordered = Ordered { subject: Some(id.to_string()), order: None };
                if let Some(name) = upload.unattended.take() {
                    attend(connection, id, claimant).await?;
                    ordered.order = Some(Order::Poll { upload: id, key, name, taken_over: true });
                }
                return Ok(ordered);
            }
            None if room.take() => {}
            None => return Ok(Ordered { subject: Some(ROOM.to_owned()), order: None }),
        }
        let id = insert(connection, &place, (media.size, room.api), claimant).await?;
        let progress = Progress::UnderWay;
        let new = Upload { id, progress, uri: None, unattended: None };
        self.uploads.insert(place, new);
        let order = Order::Upload {
            upload: id,
            key,
            mime_type: media.mime_type.clone(),
            size: media.size,
            source: media.source.clone(),
        };
        Ok(Ordered { subject: Some(id.to_string()), order: Some(order) })
    }

    /// Gives claimed jobs their media, with the addresses of those that were uploaded.
    pub(super) async fn equip(
        &self,
        connection: &mut SqliteConnection,
        claimed: &mut [Claimed],
    ) -> Result<(), StoreError> {
        for claimed in claimed.iter_mut() {
            let Some(media) = self.media.get(&claimed.job) else { continue };
            claimed.media.clone_from(&media.media);
            if !self.large.contains_key(&claimed.job) {
                continue;
            }
            claimed.fault = self.fault(claimed.job);
            for media in &mut claimed.media {
                let Some(upload) = self.upload(claimed.key, media) else { continue };
                media.uri.clone_from(&upload.uri);
                claimed.uploads.push(upload.id);
                if let Progress::Failed(kind, message) = &upload.progress {
                    claimed.fault = Some((*kind, message.clone()));
                }
            }
        }
        let jobs = claimed.iter().map(|claimed| claimed.job);
        let waited: Vec<i64> = jobs.filter(|job| self.large.contains_key(job)).collect();
        if !waited.is_empty() {
            waits::no_longer_wait(connection, &waited).await?;
        }
        Ok(())
    }
}

/// What was ordered of one medium.
#[derive(Default)]
struct Ordered {
    /// What its job waits for, if it has to.
    subject: Option<String>,
    order: Option<Order>,
}

impl Room<'_> {
    /// Takes the place of one order, if there is one.
    fn take(&mut self) -> bool {
        let there = self.orders > 0;
        self.orders -= usize::from(there);
        there
    }
}

fn file(media: &ClaimedMedia) -> Option<&FileStamp> {
    match &media.source {
        ClaimedSource::File(file) => Some(file),
        ClaimedSource::Blob { .. } => None,
    }
}

/// Records that the worker begins an upload; one that is over gives its place up.
async fn insert(
    connection: &mut SqliteConnection,
    (key, sha256, mime_type): &Place,
    (size, api): (u64, &str),
    claimant: Claimant,
) -> Result<i64, StoreError> {
    sqlx::query("DELETE FROM uploads WHERE key_id = ?1 AND sha256 = ?2 AND mime_type = ?3")
        .bind(key)
        .bind(sha256)
        .bind(mime_type)
        .execute(&mut *connection)
        .await?;
    let done = sqlx::query(
        "INSERT INTO uploads (key_id, sha256, mime_type, size, state, worker_id, lease_until, api)
         VALUES (?1, ?2, ?3, ?4, 'uploading', ?5, ?6, ?7)",
    )
    .bind(key)
    .bind(sha256)
    .bind(mime_type)
    .bind(i64::try_from(size).unwrap_or(i64::MAX))
    .bind(claimant.worker.0)
    .bind(claimant.lease_until())
    .bind(api)
    .execute(connection)
    .await?;
    Ok(done.last_insert_rowid())
}

/// Records that the worker asks for a file that the API is at work on.
async fn attend(
    connection: &mut SqliteConnection,
    upload: i64,
    claimant: Claimant,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE uploads SET worker_id = ?2, lease_until = ?3 WHERE id = ?1")
        .bind(upload)
        .bind(claimant.worker.0)
        .bind(claimant.lease_until())
        .execute(connection)
        .await?;
    Ok(())
}

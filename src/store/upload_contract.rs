//! What any store has to do with uploads: each step with two jobs and two keys.

use std::time::Duration;

use crate::domain::input::{MediaSource, NewJob, NewMedia};
use crate::domain::outcome::{ErrorKind, Exhaustion, Outcome};
use crate::domain::overdue::Overdue;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::view::{JobState, KeyStatus};
use crate::store::contract::{Bench, NOW, ended, job, overdue_before, policy};
use crate::store::{
    ApiFile, Claimed, FileStamp, FoundKey, OnConflict, Order, Policy, Prepared, Selection,
    TurnReport, TurnRequest, UploadEnd, WorkerId,
};

const SHA: &str = "00ff";

fn stamp() -> FileStamp {
    FileStamp { path: "/clip.mp4".into(), size: 9_000, modified: 5 }
}

fn with_media(number: u64) -> NewJob {
    let FileStamp { path, size, modified } = stamp();
    let source = MediaSource::File { path, size, modified };
    let media = vec![NewMedia { at: 1, mime_type: "video/mp4".into(), source }];
    NewJob { media, ..job(number, "m") }
}

/// A bench with `jobs` jobs over one file whose content is known.
async fn hashed(jobs: u64) -> Bench {
    let bench = Bench::with_jobs(0).await;
    bench.enqueue((0..jobs).map(with_media), OnConflict::Refuse).await.unwrap();
    let prepared = vec![Prepared::Hashed { file: stamp(), result: Ok(SHA.into()) }];
    turn(&bench, TurnRequest { prepared, ..bench.request(1, 0) }).await;
    bench
}

async fn turn(bench: &Bench, request: TurnRequest) -> TurnReport {
    bench.first.turn(request, policy()).await.unwrap()
}

fn file(name: &str) -> ApiFile {
    let until = NOW.after(Duration::from_hours(40));
    ApiFile { name: format!("files/{name}"), uri: format!("http://api/{name}"), until }
}

/// Returns row and key of each upload that was ordered.
fn uploads(report: &TurnReport) -> Vec<(i64, i64)> {
    let upload = |order: &Order| match order {
        Order::Upload { upload, key, .. } => Some((*upload, *key)),
        Order::Hash(_) | Order::Poll { .. } => None,
    };
    report.orders.iter().filter_map(upload).collect()
}

fn end((upload, key): (i64, i64), end: UploadEnd) -> Vec<Prepared> {
    vec![Prepared::Upload { upload, key, end }]
}

fn uris(claimed: &[Claimed]) -> Vec<(&str, Option<&str>)> {
    claimed.iter().map(|job| (job.task_id.as_str(), job.media[0].uri.as_deref())).collect()
}

async fn uploaded(bench: &Bench, worker: i64, upload: (i64, i64), name: &str) -> TurnReport {
    let prepared = end(upload, UploadEnd::Ready(file(name)));
    turn(bench, TurnRequest { prepared, ..bench.request(worker, 9) }).await
}

#[tokio::test]
async fn jobs_wait_for_what_is_in_their_file_and_then_for_its_upload() {
    let bench = Bench::with_jobs(0).await;
    bench.enqueue((0..2).map(with_media), OnConflict::Refuse).await.unwrap();
    let first = turn(&bench, bench.request(1, 9)).await;
    assert_eq!((first.claimed, first.orders), (vec![], vec![Order::Hash(stamp())]));
    let idle = turn(&bench, bench.request(1, 9)).await;
    assert_eq!((idle.claimed, idle.orders), (vec![], vec![]));

    let prepared = vec![Prepared::Hashed { file: stamp(), result: Ok(SHA.into()) }];
    let report = turn(&bench, TurnRequest { prepared, ..bench.request(1, 9) }).await;
    let ordered = uploads(&report);
    let keys: Vec<i64> = ordered.iter().map(|(_, key)| *key).collect();
    assert_eq!(keys, bench.keys, "one for each key");

    let prepared = end(ordered[1], UploadEnd::Processing(file("b")));
    let report = turn(&bench, TurnRequest { prepared, ..bench.request(1, 9) }).await;
    assert_eq!((report.claimed, report.orders), (vec![], vec![]));
    let report = uploaded(&bench, 1, ordered[0], "a").await;
    assert_eq!(uris(&report.claimed), [("t0", Some("http://api/a")), ("t1", Some("http://api/a"))]);
    assert!(report.claimed.iter().all(|job| job.key == bench.keys[0]));
    let report = uploaded(&bench, 1, ordered[1], "b").await;
    assert_eq!((report.claimed, report.orders), (vec![], vec![]));

    // What is there serves later jobs, those of other processes too.
    bench.enqueue((2..4).map(with_media), OnConflict::Refuse).await.unwrap();
    let later = bench.claim(&bench.second, 2, 9).await;
    assert_eq!(later.len(), 2);
    assert!(later.iter().all(|job| job.media[0].uri.is_some()));
}

#[tokio::test]
async fn a_job_of_text_goes_past_those_that_wait() {
    let bench = hashed(2).await;
    bench.enqueue(std::iter::once(job(7, "x")), OnConflict::Refuse).await.unwrap();
    let report = turn(&bench, bench.request(1, 1)).await;
    assert_eq!(uploads(&report).len(), 2);
    assert_eq!(report.claimed.len(), 1);
    assert_eq!(report.claimed[0].task_id, "t7");
}

#[tokio::test]
async fn small_media_are_not_uploaded() {
    let bench = hashed(1).await;
    let all_inline = Policy { inline_limit: 20_000, ..policy() };
    let report = bench.first.turn(bench.request(1, 9), all_inline).await.unwrap();
    assert_eq!((uris(&report.claimed), report.orders), (vec![("t0", None)], vec![]));
}

#[tokio::test]
async fn another_key_uploads_anew_where_the_one_that_has_the_file_rests() {
    let bench = hashed(1).await;
    let upload = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let claimed = uploaded(&bench, 1, upload, "a").await.claimed;
    let rests = Outcome::Exhausted(Exhaustion::Day);
    let ended = vec![ended(&claimed[0], rests)];
    let report = turn(&bench, TurnRequest { ended, ..bench.request(1, 9) }).await;
    let other: Vec<i64> = uploads(&report).iter().map(|(_, key)| *key).collect();
    assert_eq!((report.claimed, other), (vec![], vec![bench.keys[1]]));
}

#[tokio::test]
async fn a_failed_upload_is_told_to_its_jobs_until_someone_retries() {
    let bench = hashed(2).await;
    let [first, second] = uploads(&turn(&bench, bench.request(1, 9)).await)[..] else { panic!() };
    let (kind, message) = (ErrorKind::Media, "bad frames".to_owned());
    let failed = UploadEnd::Failed { kind, message: message.clone() };
    let mut prepared = end(first, failed.clone());
    prepared.extend(end(second, failed));
    let claimed = turn(&bench, TurnRequest { prepared, ..bench.request(1, 9) }).await.claimed;
    let fault = Some((kind, message));
    assert!(claimed.len() == 2 && claimed.iter().all(|job| job.fault == fault), "{claimed:?}");
    let failures = claimed.iter().map(|job| ended(job, Outcome::Failed(kind))).collect();
    bench.settle(&bench.first, 1, failures).await;
    assert_eq!(bench.states().await, [JobState::Failed, JobState::Failed]);
    let one = Selection { task_ids: vec!["t1".into()], ..Selection::default() };
    assert_eq!(bench.second.retry(one, Vec::new(), NOW).await.unwrap(), 1);
    assert_eq!(uploads(&turn(&bench, bench.request(1, 9)).await).len(), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_its_jobs() {
    let bench = Bench::with_jobs(0).await;
    bench.enqueue((0..2).map(with_media), OnConflict::Refuse).await.unwrap();
    turn(&bench, bench.request(1, 9)).await;
    let prepared = vec![Prepared::Hashed { file: stamp(), result: Err("it is gone".into()) }];
    let claimed = turn(&bench, TurnRequest { prepared, ..bench.request(1, 9) }).await.claimed;
    let fault = Some((ErrorKind::Media, "it is gone".to_owned()));
    assert!(claimed.len() == 2 && claimed.iter().all(|job| job.fault == fault), "{claimed:?}");
}

#[tokio::test]
async fn what_a_dead_worker_was_at_is_taken_over() {
    let bench = hashed(2).await;
    let ordered = uploads(&turn(&bench, bench.request(1, 9)).await);
    let prepared = end(ordered[1], UploadEnd::Processing(file("b")));
    turn(&bench, TurnRequest { prepared, ..bench.request(1, 0) }).await;
    let died =
        |worker| TurnRequest { dead: vec![WorkerId(worker)], ..bench.request(worker + 1, 9) };
    // What was on its way is lost; both jobs go where the API has the file already.
    let report = bench.second.turn(died(1), policy()).await.unwrap();
    let (upload, key) = ordered[1];
    let poll = Order::Poll { upload, key, name: "files/b".into(), taken_over: true };
    assert_eq!(report.orders, std::slice::from_ref(&poll));
    let report = bench.second.turn(died(2), policy()).await.unwrap();
    assert_eq!(report.orders, [poll]);
    let states: Vec<String> =
        bench.first.uploads(NOW).await.unwrap().into_iter().map(|upload| upload.state).collect();
    assert_eq!(states, ["processing"]);
    // The dead one's late word is that of an upload that is not there.
    uploaded(&bench, 1, ordered[0], "late").await;
    let known = bench.second.uploads(NOW).await.unwrap();
    assert!(known.iter().all(|upload| upload.name.as_deref() != Some("files/late")), "{known:?}");
}

#[tokio::test]
async fn an_upload_that_died_with_its_worker_begins_anew() {
    let bench = hashed(1).await;
    let lost = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let request = TurnRequest { dead: vec![WorkerId(1)], ..bench.request(2, 9) };
    let again = uploads(&bench.second.turn(request, policy()).await.unwrap());
    assert_eq!((again.len(), again[0] == lost), (1, false));
}

#[tokio::test]
async fn what_was_ordered_unknown_to_the_worker_is_ordered_again() {
    let bench = hashed(1).await;
    let lost = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let audit = |uploading| TurnRequest { audit: true, uploading, ..bench.request(1, 9) };
    assert_eq!(uploads(&turn(&bench, audit(vec![lost.0])).await), []);
    let again = uploads(&turn(&bench, audit(vec![])).await);
    assert_eq!((again.len(), again[0] == lost), (1, false));
}

#[tokio::test]
async fn an_upload_of_a_hung_worker_is_taken_over_after_its_lease() {
    let bench = hashed(1).await;
    let lost = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let later = |boot: fn() -> Moment| TurnRequest {
        moment: boot,
        audit: true,
        overdue: overdue_before(1, boot().boot),
        ..bench.request(2, 9)
    };
    let within = later(|| Moment { now: NOW, boot: 60_000 });
    assert_eq!(uploads(&turn(&bench, within).await), []);
    let first_seen = later(|| Moment { now: NOW, boot: 62_000 });
    let first_seen = TurnRequest { overdue: Overdue::default(), ..first_seen };
    assert_eq!(uploads(&turn(&bench, first_seen).await), []);
    let after = later(|| Moment { now: NOW, boot: 62_000 });
    let again = uploads(&turn(&bench, after).await);
    assert_eq!((again.len(), again[0] == lost), (1, false));
}

#[tokio::test]
async fn an_upload_is_made_anew_once_it_is_of_no_more_use() {
    let mut bench = hashed(1).await;
    bench.keys.truncate(1);
    let upload = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let claimed = uploaded(&bench, 1, upload, "a").await.claimed;
    assert_eq!(claimed[0].uploads, [upload.0]);
    let give_back = |lost_uploads| {
        let ended = super::Ended { lost_uploads, ..ended(&claimed[0], Outcome::FileExpired) };
        TurnRequest { ended: vec![ended], ..bench.request(1, 0) }
    };

    // Another API, or a later day.
    turn(&bench, give_back(vec![])).await;
    let elsewhere = Policy { api: "http://elsewhere".into(), ..policy() };
    let report = bench.first.turn(bench.request(1, 9), elsewhere).await.unwrap();
    assert_eq!((report.claimed.len(), uploads(&report).len()), (0, 1));
    let upload = uploads(&report)[0];
    turn(&bench, TurnRequest { prepared: end(upload, UploadEnd::Cut), ..bench.request(1, 0) })
        .await;
    let upload = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let prepared = end(upload, UploadEnd::Ready(file("b")));
    turn(&bench, TurnRequest { prepared, ..bench.request(1, 0) }).await;
    let moment = || Moment { now: NOW.after(Duration::from_hours(41)), boot: 1_000 };
    let report = turn(&bench, TurnRequest { moment, ..bench.request(1, 9) }).await;
    assert_eq!((report.claimed.len(), uploads(&report).len()), (0, 1));
    let states: Vec<String> =
        bench.first.uploads(NOW).await.unwrap().into_iter().map(|upload| upload.state).collect();
    assert_eq!(states, ["uploading"]);
}

#[tokio::test]
async fn a_file_that_the_api_lost_is_uploaded_again_at_no_cost_to_the_job() {
    let bench = hashed(2).await;
    let ordered = uploads(&turn(&bench, bench.request(1, 9)).await);
    let claimed = uploaded(&bench, 1, ordered[0], "a").await.claimed;
    let lost_uploads = claimed[0].uploads.clone();
    let ended = super::Ended { lost_uploads, ..ended(&claimed[0], Outcome::FileExpired) };
    let report = turn(&bench, TurnRequest { ended: vec![ended], ..bench.request(1, 9) }).await;
    let again = uploads(&report);
    assert_eq!((report.claimed.len(), again.len()), (0, 0), "the other key is at it");
    let report = uploaded(&bench, 1, ordered[1], "b").await;
    assert_eq!(uris(&report.claimed), [("t0", Some("http://api/b"))]);
    assert_eq!(bench.states().await, [JobState::Running, JobState::Running]);
}

#[tokio::test]
async fn a_key_with_a_new_secret_has_no_uploads() {
    let bench = hashed(1).await;
    let upload = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    uploaded(&bench, 1, upload, "a").await;
    let found = FoundKey { name: "A", secret: "another", is_sendable: true, settings: None };
    bench.second.register_keys(&[found], || NOW).await.unwrap();
    assert_eq!(bench.first.uploads(NOW).await.unwrap(), []);
}

#[tokio::test]
async fn jobs_wait_for_room_where_too_much_is_under_way() {
    let bench = hashed(2).await;
    let [one, two] = [1, 0].map(|room| TurnRequest { room, ..bench.request(1, 9) });
    let ordered = uploads(&turn(&bench, one).await);
    assert_eq!(ordered.len(), 1);
    let none = turn(&bench, two).await;
    assert_eq!((none.claimed.len(), none.orders.len()), (0, 0));
    // What has become free is taken at once; here by a job that finds all that it needs.
    let report = uploaded(&bench, 1, ordered[0], "a").await;
    assert_eq!(uris(&report.claimed), [("t0", Some("http://api/a")), ("t1", Some("http://api/a"))]);
}

#[tokio::test]
async fn a_job_that_waited_is_due_when_it_was_before() {
    let bench = hashed(1).await;
    let due = |bench: &Bench| {
        let readers = bench.first.readers.clone();
        async move {
            let query = sqlx::query_scalar::<_, i64>("SELECT due_at FROM jobs");
            Timestamp(query.fetch_one(&readers).await.unwrap())
        }
    };
    let ordered = uploads(&turn(&bench, bench.request(1, 9)).await);
    assert!(due(&bench).await > NOW);
    let request = TurnRequest { prepared: end(ordered[0], UploadEnd::Cut), ..bench.request(1, 0) };
    turn(&bench, request).await;
    assert_eq!(due(&bench).await, NOW);
}

#[tokio::test]
async fn a_lease_is_renewed_while_its_worker_lives() {
    let bench = hashed(1).await;
    let held = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let audit = |worker, moment: fn() -> Moment| TurnRequest {
        moment,
        audit: true,
        uploading: vec![held.0],
        overdue: overdue_before(1, moment().boot),
        ..bench.request(worker, 9)
    };
    turn(&bench, audit(1, || Moment { now: NOW, boot: 50_000 })).await;
    let other = audit(2, || Moment { now: NOW, boot: 62_000 });
    assert_eq!(uploads(&turn(&bench, other).await), []);
    assert_eq!(bench.first.uploads(NOW).await.unwrap()[0].id, held.0);
}

#[tokio::test]
async fn a_job_waits_for_a_key_that_has_its_file_and_only_cools() {
    let bench = hashed(1).await;
    let upload = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let claimed = uploaded(&bench, 1, upload, "a").await.claimed;
    let gentle = || Policy { key_cooldown: Duration::from_secs(30), ..policy() };
    // Its call was cut; the key cools as after any use.
    let ended = vec![ended(&claimed[0], Outcome::Cut)];
    let request = TurnRequest { ended, ..bench.request(1, 9) };
    let report = bench.first.turn(request, gentle()).await.unwrap();
    assert_eq!((report.claimed.len(), report.orders), (0, vec![]));
    let moment = || Moment { now: NOW.after(Duration::from_secs(31)), boot: 32_000 };
    let request = TurnRequest { moment, ..bench.request(1, 9) };
    let claimed = bench.first.turn(request, gentle()).await.unwrap().claimed;
    assert_eq!(uris(&claimed), [("t0", Some("http://api/a"))]);
}

#[tokio::test]
async fn what_is_known_of_a_file_goes_with_its_last_upload() {
    let bench = hashed(2).await;
    let ordered = uploads(&turn(&bench, bench.request(1, 9)).await);
    let old = ApiFile { until: NOW.after(Duration::from_secs(1)), ..file("a") };
    let prepared = end(ordered[0], UploadEnd::Ready(old));
    turn(&bench, TurnRequest { prepared, ..bench.request(1, 0) }).await;
    let path = || async { bench.first.uploads(NOW).await.unwrap()[0].path.clone() };
    assert_eq!(path().await.as_deref(), Some("/clip.mp4"));
    // The end of another upload, later, sweeps; that one still needs what is known.
    let moment = || Moment { now: NOW.after(Duration::from_secs(2)), boot: 3_000 };
    let prepared = end(ordered[1], UploadEnd::Ready(file("b")));
    turn(&bench, TurnRequest { moment, prepared, ..bench.request(1, 0) }).await;
    let names: Vec<_> =
        bench.first.uploads(NOW).await.unwrap().into_iter().filter_map(|it| it.name).collect();
    assert_eq!((names, path().await.as_deref()), (vec!["files/b".into()], Some("/clip.mp4")));
}

#[tokio::test]
async fn a_worker_that_starts_looks_at_all_jobs_that_wait() {
    let bench = Bench::with_jobs(0).await;
    bench.enqueue((0..2).map(with_media), OnConflict::Refuse).await.unwrap();
    assert_eq!(turn(&bench, bench.request(1, 9)).await.orders.len(), 1);
    let later = turn(&bench, bench.request(2, 9)).await;
    assert_eq!(later.orders, [], "the first one is at it");
    let start = TurnRequest { rebase: true, ..bench.request(2, 9) };
    assert_eq!(turn(&bench, start).await.orders, [Order::Hash(stamp())]);
}

#[tokio::test]
async fn a_429_of_an_upload_rests_its_key_and_another_takes_over() {
    let bench = hashed(1).await;
    let upload = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let exhaustion = Exhaustion::Day;
    let limited = UploadEnd::RateLimited { exhaustion, started_at: NOW, jitter: 0.0 };
    let prepared = end(upload, limited);
    let report = turn(&bench, TurnRequest { prepared, ..bench.request(1, 9) }).await;
    let other: Vec<i64> = uploads(&report).iter().map(|(_, key)| *key).collect();
    assert_eq!((report.claimed.len(), other), (0, vec![bench.keys[1]]));
    let keys = bench.second.keys(&[], NOW).await.unwrap();
    let states: Vec<_> = keys.iter().map(|key| key.overall.status).collect();
    assert_eq!(states, [KeyStatus::FullyExhausted, KeyStatus::Available]);
}

#[tokio::test]
async fn a_job_that_waits_for_one_key_goes_to_another_that_is_ready_first() {
    let bench = hashed(2).await;
    let ordered = uploads(&turn(&bench, bench.request(1, 9)).await);
    let report = uploaded(&bench, 1, ordered[1], "b").await;
    assert_eq!(uris(&report.claimed), [("t0", Some("http://api/b")), ("t1", Some("http://api/b"))]);
}

#[tokio::test]
async fn a_file_that_was_lost_before_it_was_ready_is_uploaded_again() {
    let bench = hashed(1).await;
    let upload = uploads(&turn(&bench, bench.request(1, 9)).await)[0];
    let prepared = end(upload, UploadEnd::Lost);
    let report = turn(&bench, TurnRequest { prepared, ..bench.request(1, 9) }).await;
    assert_eq!((report.claimed.len(), uploads(&report).len()), (0, 1));
}

//! Limits: given, learned, shared by projects and processes, and what people see of them.

use serde_json::{Value, json};

use crate::support::{LIMIT, TestEnv, column, wait_until};

fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("question {number}")).collect()
}

/// Two keys on the stand-in; which of them are of one project, and their quotas, say `keys`.
fn two_keys(config: &Value) -> TestEnv {
    let mut env = TestEnv::with_stand_in(config);
    env.set("GEMINI_API_KEY", "");
    env.set("GEMINI_API_KEY_1", "secret-one");
    env.set("GEMINI_API_KEY_2", "secret-two");
    env
}

fn refused(env: &TestEnv) -> i64 {
    env.count("SELECT count(*) FROM attempts WHERE outcome = 'rate_limited'")
}

/// Works until so many calls were made and no more follow by themselves.
fn worked(env: &TestEnv, flags: &[&str], calls: u64) {
    let worker = env.spawn(&[&["work"], flags].concat());
    wait_until("the calls", LIMIT, || env.calls() == calls);
    wait_until("their answers", LIMIT, || env.status()["active_workers"] == json!(0));
    // Two audits of the worker later it has had its chance.
    let turns = "SELECT coalesce(max(heartbeat_at), 0) FROM workers";
    wait_until("the worker", LIMIT, || env.count(turns) > 0);
    let before = env.count(turns);
    wait_until("a sign of life", LIMIT, || env.count(turns) > before);
    assert_eq!(env.calls(), calls);
    worker.kill();
}

#[test]
fn a_given_limit_is_used_up_at_once_by_what_fits_and_kept_by_what_does_not() {
    let env = TestEnv::with_stand_in(&json!({"quota": {"rpm": 5}}));
    env.prompts("first.jsonl", &numbered(5));
    let results = env.gq(&["run", "first.jsonl", "--rpm", "5"]).exits(0).lines();
    assert_eq!(column(&results, "state"), ["succeeded"; 5]);
    env.prompts("more.jsonl", &numbered(3));
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    worked(&env, &["--rpm", "gemini-flash-latest=5"], 5);
    assert_eq!(refused(&env), 0);
}

#[test]
fn a_day_that_is_used_up_ends_a_worker_told_so_and_is_told_of() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &numbered(5));
    let ran = env.gq(&["run", "in.jsonl", "--rpd", "3", "--on-exhausted", "exit"]).exits(75);
    assert!(ran.stderr.contains("every key that could go on rests"), "{}", ran.stderr);
    assert_eq!(env.calls(), 3);
    env.gq(&["keys", "set", "GEMINI_API_KEY", "--rpd", "4"]).exits(0);
    env.gq(&["work", "--on-exhausted", "exit"]).exits(75);
    assert_eq!(env.calls(), 4);
    let status = env.status();
    let key = &status["key_status"]["GEMINI_API_KEY"];
    assert_eq!(key["status"], "fully_exhausted");
    assert_eq!(status["waiting_for"]["until"], key["available_at"]);
    assert_eq!(status["forecast"]["left"], json!(1));
    assert_eq!(status["forecast"]["per_day"], json!(4));
    assert_eq!(status["used"]["calls"], json!(4));
    env.gq(&["keys", "set", "GEMINI_API_KEY", "--rpd", "none"]).exits(0);
    env.gq(&["work", "--drain"]).exits(0);
    assert_eq!(env.calls(), 5);
}

#[test]
fn a_limit_that_429s_name_is_learned_shown_and_kept_over_restarts() {
    let env = TestEnv::with_stand_in(&json!({"quota": {"rpm": 4}}));
    env.prompts("in.jsonl", &numbered(9));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work"]);
    wait_until("a refusal", LIMIT, || {
        env.count("SELECT count(*) FROM sqlite_schema WHERE name = 'attempts'") == 1
            && refused(&env) > 0
    });
    worker.kill();
    let calls = env.calls();
    assert!(calls <= 6, "{calls} calls");
    let keys = env.gq(&["keys", "--format", "json"]).exits(0).json();
    let limit = &keys[0]["limits"]["gemini-flash-latest"]["rpm"];
    assert_eq!((&limit["limit"], &limit["origin"]), (&json!(4), &json!("learned")));
    assert!(limit["learned_at"].is_string());
    let text = env.gq(&["keys"]).exits(0).stdout;
    assert!(text.contains(&format!("rpm {calls}/4 learned")), "{text}");
    assert_eq!(env.count("SELECT learned_rpm FROM key_slots"), 4);
    // The rest after the 429 is over, the minute is not.
    env.execute("UPDATE slots SET rest_until = NULL, streak = 0");
    worked(&env, &[], calls);
    env.gq(&["keys", "reset"]).exits(0);
    let keys = env.gq(&["keys", "--format", "json"]).exits(0).json();
    assert_eq!(keys[0]["limits"], json!({}));
}

#[test]
fn three_processes_keep_within_one_limit_together() {
    let env = TestEnv::with_stand_in(&json!({"quota": {"rpm": 6}, "latency_ms": 20}));
    env.prompts("first.jsonl", &numbered(6));
    env.prompts("more.jsonl", &numbered(20));
    env.gq(&["enqueue", "first.jsonl"]).exits(0);
    let workers = [0; 3].map(|_| env.spawn(&["work", "--rpm", "6"]));
    wait_until("six answers", LIMIT, || env.status()["jobs"]["succeeded"] == json!(6));
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    worked(&env, &["--rpm", "6"], 6);
    assert_eq!(refused(&env), 0);
    workers.into_iter().for_each(crate::support::Running::kill);
}

#[test]
fn keys_of_one_project_share_its_limit_and_its_rest() {
    let project = json!({"project": "p"});
    let mut env = two_keys(&json!({
        "quota": {"rpm": 4}, "keys": {"secret-one": project, "secret-two": project}
    }));
    for name in ["GEMINI_API_KEY_1_PROJECT", "GEMINI_API_KEY_2_PROJECT"] {
        env.set(name, "mine");
    }
    env.set("GEMINI_API_KEY_2_RPM", "4");
    env.prompts("in.jsonl", &numbered(4));
    env.gq(&["run", "in.jsonl"]).exits(0);
    env.prompts("more.jsonl", &numbered(3));
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    worked(&env, &[], 4);
    assert_eq!(refused(&env), 0);
    let keys = env.gq(&["keys", "--format", "json"]).exits(0).json();
    for key in keys.as_array().unwrap() {
        assert_eq!(key["project"], "mine");
        let limit = &key["limits"]["gemini-flash-latest"]["rpm"];
        assert_eq!((&limit["limit"], &limit["used"]), (&json!(4), &json!(4)));
    }
}

#[test]
fn a_429_makes_all_keys_of_its_project_rest() {
    let mut env = two_keys(&json!({
        "script": [{"every": 1, "reply": "rate_limit_day"}]
    }));
    for name in ["GEMINI_API_KEY_1_PROJECT", "GEMINI_API_KEY_2_PROJECT"] {
        env.set(name, "mine");
    }
    env.prompts("in.jsonl", &numbered(1));
    env.gq(&["run", "in.jsonl", "--on-exhausted", "exit"]).exits(75);
    assert_eq!(env.calls(), 1);
    let keys = &env.status()["key_status"];
    for name in ["GEMINI_API_KEY_1", "GEMINI_API_KEY_2"] {
        assert_eq!(keys[name]["status"], "fully_exhausted");
    }
}

#[test]
fn free_keys_go_before_paid_ones() {
    let mut env = two_keys(&json!({}));
    env.set("GEMINI_API_KEY_1_TIER", "paid");
    env.set("GEMINI_API_KEY_2_TIER", "free");
    env.prompts("in.jsonl", &numbered(6));
    let run = ["run", "in.jsonl", "--workers", "1", "--rpd", "4"];
    let results = env.gq(&run).exits(0).lines();
    let keys = column(&results, "key");
    assert_eq!(keys[..4], ["GEMINI_API_KEY_2"; 4]);
    assert_eq!(keys[4..], ["GEMINI_API_KEY_1"; 2]);
}

#[test]
fn settings_of_the_environment_come_before_those_of_the_command() {
    let mut env = two_keys(&json!({}));
    let set = ["keys", "set", "GEMINI_API_KEY_1", "GEMINI_API_KEY_2", "--rpm", "9,m=2", "--tier"];
    env.gq(&[&set[..], &["free"]].concat()).exits(0);
    env.set("GEMINI_API_KEY_2_RPM", "7");
    env.set("GEMINI_API_KEY_2_TIER", "paid");
    env.prompts("in.jsonl", &numbered(2));
    env.gq(&["run", "in.jsonl"]).exits(0);
    let keys = env.gq(&["keys", "--format", "json"]).exits(0).json();
    assert_eq!(column(keys.as_array().unwrap(), "tier"), ["free", "paid"]);
    let rpm = |key: usize| {
        let limit = &keys[key]["limits"]["gemini-flash-latest"]["rpm"];
        (limit["limit"].clone(), limit["origin"].clone())
    };
    assert_eq!(rpm(0), (json!(9), json!("set")));
    assert_eq!(rpm(1), (json!(7), json!("environment")));
    env.gq(&["keys", "set", "GEMINI_API_KEY_9", "--rpm", "1"]).exits(4);
    env.gq(&["keys", "set", "--rpm", "1"]).exits(2);
    env.gq(&["keys", "set", "GEMINI_API_KEY_1", "--rpm", "0"]).exits(2);
}

#[test]
fn tokens_are_reserved_and_put_right() {
    let env = TestEnv::with_stand_in(&json!({"quota": {"tpm": 1_000}}));
    // About a hundred tokens each.
    let prompts: Vec<String> =
        (0..20).map(|number| format!("{number} {}", "word ".repeat(80))).collect();
    env.prompts("in.jsonl", &prompts[..5]);
    env.gq(&["run", "in.jsonl", "--tpm", "1000"]).exits(0);
    let keys = env.gq(&["keys", "set", "GEMINI_API_KEY", "--tpm", "1000", "--format", "json"]);
    let keys = keys.exits(0).json();
    let used = keys[0]["limits"]["gemini-flash-latest"]["tpm"]["used"].as_i64().unwrap();
    let told = env.count("SELECT sum(prompt_tokens) FROM attempts");
    assert_eq!(used, told, "what the API told of, not what was expected");
    env.prompts("more.jsonl", &prompts);
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    let worker = env.spawn(&["work"]);
    wait_until("some calls", LIMIT, || env.calls() > 5);
    wait_until("no call in flight", LIMIT, || env.status()["active_workers"] == json!(0));
    worker.kill();
    assert_eq!(refused(&env), 0);
    assert!(env.count("SELECT sum(prompt_tokens) FROM attempts") <= 1_000);
}

#[test]
fn an_overloaded_model_gets_fewer_calls_until_it_answers_again() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"first": 8, "reply": "overloaded", "delay_ms": 50}], "latency_ms": 20
    }));
    env.prompts("in.jsonl", &numbered(30));
    env.gq(&["keys", "set", "GEMINI_API_KEY", "--tier", "paid"]).exits(0);
    let results = env.gq(&["run", "in.jsonl", "--workers", "8"]).exits(0).lines();
    assert_eq!(column(&results, "state"), vec!["succeeded"; 30]);
    assert_eq!(env.count("SELECT lowered_at IS NOT NULL FROM models"), 1);
    assert!(env.count("SELECT allowed FROM models") > 1_000, "it has grown again");
    assert_eq!(env.count("SELECT coalesce(sum(streak), 0) FROM slots"), 0, "no key is at fault");
}

#[test]
fn a_model_that_rests_delays_no_other() {
    let env = TestEnv::with_stand_in(&json!({
        "script": [{"model": "gemini-2.5-pro", "reply": "rate_limit_day"}]
    }));
    let line = |number: usize| {
        let model = if number.is_multiple_of(2) { "gemini-2.5-pro" } else { "gemini-2.5-flash" };
        json!({"prompt": "x", "task_id": number.to_string(), "model": model}).to_string() + "\n"
    };
    env.write("in.jsonl", (0..40).map(line).collect::<String>());
    env.gq(&["run", "in.jsonl", "--on-exhausted", "wait", "--timeout", "3s"]).exits(5);
    let of =
        |model: &'static str| env.mock().requests().iter().filter(|it| &*it.model == model).count();
    assert_eq!((of("gemini-2.5-flash"), of("gemini-2.5-pro")), (20, 1));
}

#[test]
fn keys_that_seem_to_be_of_one_project_are_told_of() {
    let off = json!({"project": "p", "status": "service_disabled"});
    let env = two_keys(&json!({"keys": {"secret-one": off, "secret-two": off}}));
    env.prompts("in.jsonl", &numbered(2));
    env.gq(&["run", "in.jsonl"]).exits(6);
    let ran = env.gq(&["keys"]).exits(0);
    let hint = "`GEMINI_API_KEY_2` and `GEMINI_API_KEY_1` seem to be keys of one project";
    assert!(ran.stderr.contains(hint), "{}", ran.stderr);
    let set = ["keys", "set", "GEMINI_API_KEY_1", "GEMINI_API_KEY_2", "--project", "p"];
    assert!(!env.gq(&set).exits(0).stderr.contains("one project"));
}

#[test]
fn prices_of_ones_own_count() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &numbered(3));
    env.write(
        "prices.toml",
        "flex = 0.5\nlong = 9\n[[model]]\nname = \"\"\ninput = 1000000\noutput = 0\n",
    );
    let run = ["run", "in.jsonl", "--prices", "prices.toml", "--max-cost", "1", "--workers", "1"];
    env.gq(&run).exits(7);
    assert_eq!(env.calls(), 1);
    let cost = env.status()["used"]["cost_usd"].as_f64().unwrap();
    let tokens = env.count("SELECT sum(prompt_tokens) FROM attempts");
    assert_eq!(cost.to_string(), tokens.to_string(), "a dollar for each token");
    env.write("bad.toml", "flex = 0.5\n");
    let ran = env.gq(&["run", "in.jsonl", "--prices", "bad.toml"]).exits(2);
    assert!(ran.stderr.contains("bad.toml"), "{}", ran.stderr);
}

#[test]
fn keys_that_run_out_together_may_be_of_one_project() {
    for together in [true, false] {
        let project = |name: &str| json!({"project": name});
        let other = if together { "p" } else { "q" };
        let env = two_keys(&json!({
            "quota": {"rpm": 4}, "keys": {"secret-one": project("p"), "secret-two": project(other)}
        }));
        env.prompts("in.jsonl", &numbered(12));
        env.gq(&["enqueue", "in.jsonl"]).exits(0);
        let worker = env.spawn(&["work"]);
        wait_until("both keys to rest", LIMIT, || {
            env.count("SELECT count(*) FROM sqlite_schema WHERE name = 'slots'") == 1
                && env.count("SELECT count(*) FROM slots WHERE streak > 0") == 2
        });
        worker.kill();
        let told = env.gq(&["keys"]).exits(0).stderr;
        assert_eq!(told.contains("seem to be keys of one project"), together, "{told}");
    }
}

#[test]
fn a_prompt_that_no_minute_has_room_for_stands_back() {
    let env = TestEnv::with_stand_in(&json!({"quota": {"tpm": 1_000}, "minute_ms": 1000}));
    let mut prompts = vec!["word ".repeat(2_000)];
    prompts.extend(numbered(30));
    env.prompts("in.jsonl", &prompts);
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work"]);
    wait_until("all others to be answered", LIMIT, || {
        env.status()["jobs"]["succeeded"] == json!(30)
    });
    worker.kill();
    assert_eq!(env.count("SELECT attempts FROM jobs WHERE task_id = 't1'"), 0);
    let large = env.count("SELECT count(*) FROM attempts WHERE job_id = 1");
    assert!((1..=6).contains(&large), "{large} calls of the large one");
}

#[test]
fn what_was_noted_under_a_clock_that_was_ahead_holds_nothing_up() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &numbered(3));
    env.gq(&["run", "in.jsonl", "--rpm", "100", "--rpd", "500"]).exits(0);
    env.execute(
        "UPDATE slots
            SET next_at = next_at + 172800000, day = day + 2, exhausted_at = 9999999999999,
                streak = 2, recent = '60000 ' || (unixepoch() * 1000 + 172800000) || ' 0 3 9'",
    );
    env.prompts("more.jsonl", &numbered(200));
    env.gq(&["enqueue", "more.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--rpm", "100", "--rpd", "500"]);
    wait_until("calls", LIMIT, || env.calls() >= 6);
    worker.kill();
    let right = "SELECT count(*) FROM slots
                  WHERE next_at < (unixepoch() + 120) * 1000 AND streak = 0
                    AND exhausted_at <= unixepoch() * 1000 + 1000";
    assert_eq!(env.count(right), 1);
    assert_eq!(env.count("SELECT day_calls FROM slots"), i64::try_from(env.calls()).unwrap());
}

#[test]
fn what_was_used_stays_used_after_a_reset_and_a_change_of_project() {
    let env = two_keys(&json!({}));
    let set = ["keys", "set", "GEMINI_API_KEY_1", "GEMINI_API_KEY_2", "--rpd", "9", "--rpd", "m=4"];
    env.gq(&[&set[..], &["--project", "p"]].concat()).exits(0);
    env.prompts("in.jsonl", &numbered(12));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let work = ["work", "--on-exhausted", "exit"];
    env.gq(&work).exits(75);
    assert_eq!(env.calls(), 9);
    env.gq(&["keys", "reset"]).exits(0);
    env.gq(&work).exits(75);
    env.gq(&["keys", "set", "GEMINI_API_KEY_2", "--project", "none"]).exits(0);
    env.gq(&work).exits(75);
    assert_eq!(env.calls(), 9);
}

#[test]
fn settings_are_shown_before_a_key_is_used() {
    let env = TestEnv::with_stand_in(&json!({}));
    let set = ["keys", "set", "GEMINI_API_KEY", "--rpm", "3", "--rpm", "m=5", "--project", "p"];
    let text = env.gq(&[&set[..], &["--tier", "free"]].concat()).exits(0).stdout;
    assert!(text.contains("free, project p, rpm 3,m=5"), "{text}");
    let keys = env.gq(&["keys", "--format", "json"]).exits(0).json();
    assert_eq!((&keys[0]["rpm"], &keys[0]["tpm"]), (&json!("3,m=5"), &json!(null)));
}

#[test]
fn progress_is_printed_line_by_line_where_it_is_asked_for_and_there_is_no_terminal() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &numbered(3));
    let ran = env.gq(&["run", "in.jsonl", "--progress"]).exits(0);
    assert!(ran.stderr.lines().any(|line| line.starts_with("3/3")), "{}", ran.stderr);
    assert_eq!(env.gq(&["run", "in.jsonl"]).exits(0).stderr, "");
}

#[test]
fn limits_that_a_worker_was_told_are_seen_while_it_runs() {
    let env = TestEnv::with_stand_in(&json!({}));
    env.prompts("in.jsonl", &numbered(5));
    env.gq(&["enqueue", "in.jsonl"]).exits(0);
    let worker = env.spawn(&["work", "--rpd", "2"]);
    wait_until("the day to be over", LIMIT, || env.status()["waiting_for"]["until"].is_string());
    let status = env.status();
    assert_eq!(status["key_status"]["GEMINI_API_KEY"]["status"], "fully_exhausted");
    assert_eq!(status["forecast"]["per_day"], json!(2));
    let keys = env.gq(&["keys"]).exits(0).stdout;
    assert!(keys.contains("rpd 2/2 worker"), "{keys}");
    let told = worker.stderr();
    assert!(told.contains("the key rests"), "it says until when: {told}");
    worker.kill();
}

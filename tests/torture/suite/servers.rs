//! A server that does at the first call of each job what servers do on a bad day: each job is told of
//! by the right kind, tried again, and answered; and no key goes to another host.

use serde_json::{Value, json};

use super::checker;
use super::rig::Rig;
use super::support::TestEnv;

/// What the first call of a job meets, and the kind of error that it is; none where it is an answer.
fn faults(elsewhere: &str) -> Vec<(&'static str, Value, Option<&'static str>)> {
    vec![
        ("reset-before", json!({"fault": "reset_before"}), Some("network")),
        ("reset-after", json!({"fault": "reset_after_headers"}), Some("network")),
        ("half-body", json!({"fault": "cut_body"}), Some("network")),
        ("stall", json!({"fault": "stall"}), Some("timeout")),
        ("silence", json!({"fault": "stall_before"}), Some("timeout")),
        ("page", json!({"reply": "html_502"}), Some("server_error")),
        ("overload", json!({"reply": "overloaded"}), Some("overloaded")),
        ("garbage", json!({"reply": "not_json"}), Some("malformed_response")),
        ("not-utf8", json!({"reply": "not_utf8"}), Some("malformed_response")),
        ("nothing", json!({"reply": "empty_body"}), Some("malformed_response")),
        ("huge", json!({"fault": "huge_body", "bytes": 280_000_000}), Some("malformed_response")),
        (
            "packed",
            json!({"headers": {"Content-Encoding": "gzip"}, "body": "\u{1f}\u{8b}\u{8}bomb"}),
            Some("malformed_response"),
        ),
        ("typed", json!({"headers": {"Content-Type": "text/html"}, "text": "fine"}), None),
        (
            "redirect",
            json!({"fault": "redirect", "headers": {"Location": elsewhere}}),
            Some("server_error"),
        ),
        ("broken-stream", json!({"after_chunks": 1, "reply": "overloaded"}), Some("overloaded")),
        ("cut-stream", json!({"after_chunks": 1, "fault": "reset_after_headers"}), Some("network")),
    ]
}

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    let elsewhere = rig.env(json!({}));
    let url = format!("{}/v1beta/models", elsewhere.mock().url());
    let faults = faults(&url);
    let mut script: Vec<Value> = Vec::new();
    for (name, rule, _) in &faults {
        let mut rule = rule.clone();
        rule["prompt_contains"] = json!(format!("{name} end"));
        rule["nth"] = json!(1);
        script.push(rule);
    }
    let storm = json!({"prompt_contains": "storm", "per_prompt": true, "first": 2,
                       "reply": "rate_limit_minute", "retry_delay": "0.1s"});
    script.push(storm);
    script.push(json!({"prompt_contains": "echo", "fault": "echo_key"}));
    let env = rig.env(json!({ "script": script }));
    // Those that say nothing take the whole time that a call may have, the huge one a part of it.
    let silent = |name: &str| matches!(name, "stall" | "silence");
    for (file, is_silent, limit) in [("in.jsonl", false, "60s"), ("silent.jsonl", true, "2s")] {
        let those = faults.iter().filter(|(name, ..)| silent(name) == is_silent);
        let lines = those.map(|(name, ..)| {
            let stream = name.ends_with("stream");
            let line = json!({"prompt": format!("{name} end"), "task_id": name, "stream": stream});
            line.to_string() + "\n"
        });
        env.write(file, lines.collect::<String>());
        let args = ["-vvv", "run", file, "-o", "out.jsonl", "--request-timeout", limit];
        rig.run(&env, &args).exits(0);
    }
    let mut found = Vec::new();
    for (name, _, kind) in &faults {
        let job = env.show(name);
        let tried = if kind.is_some() { 2 } else { 1 };
        let first = job["attempt_log"][0]["outcome"].as_str().unwrap();
        let fits = job["state"] == "succeeded"
            && job["attempts"] == tried
            && first == kind.unwrap_or("succeeded");
        if !fits {
            found.push(format!(
                "{name}: {}, {} attempts, first {first}",
                job["state"], job["attempts"]
            ));
        }
    }
    let strange = elsewhere.mock().stats().requests;
    found.extend((strange > 0).then(|| format!("{strange} calls went to another host")));
    found.extend(storm_passes(rig, &env));
    found.extend(key_is_repeated(rig, &env));
    found.extend(nobody_listens(rig));
    found.extend(checker::unsound(&checker::open(&env.path("gq.db")).unwrap()));
    rig.search(env.folder());
    rig.search(elsewhere.folder());
    found
}

/// Refusals for want of quota use up no attempt.
fn storm_passes(rig: &Rig, env: &TestEnv) -> Vec<String> {
    let prompts: Vec<String> = (1..=12).map(|number| format!("storm {number}")).collect();
    env.prompts("storm.jsonl", &prompts);
    let ran = rig.run(env, &["-vvv", "run", "storm.jsonl", "--workers", "12"]);
    let states: Vec<Value> = ran.lines();
    let fits = states.len() == prompts.len()
        && states.iter().all(|job| job["state"] == "succeeded" && job["attempts"] == 1);
    (!fits).then(|| format!("after a storm of 429s: {states:?}")).into_iter().collect()
}

/// An error that repeats the key: it is told without it.
fn key_is_repeated(rig: &Rig, env: &TestEnv) -> Vec<String> {
    env.prompts("echo.jsonl", &["echo 1", "echo 2"]);
    let ran = rig.run(env, &["-vvv", "run", "echo.jsonl"]);
    let told = ran.lines();
    let fits = told.len() == 2
        && told.iter().all(|job| job["error"]["message"].as_str().is_some_and(|it| !it.is_empty()));
    (!fits).then(|| format!("an error that holds the key: {ran:?}")).into_iter().collect()
}

/// A port where nobody listens: the job waits for its next attempt, and surely nothing was paid.
fn nobody_listens(rig: &Rig) -> Vec<String> {
    let mut env = rig.env(json!({}));
    env.set("GEMINI_BASE_URL", "http://127.0.0.1:9");
    env.prompts("in.jsonl", &["one", "two"]);
    let ran = rig.run(&env, &["-vvv", "run", "in.jsonl", "--max-attempts", "1"]).exits(3);
    let kinds: Vec<Value> = ran.lines().iter().map(|job| job["error"]["kind"].clone()).collect();
    let paid = env.show("t1")["attempt_log"][0]["paid"].clone();
    rig.search(env.folder());
    let fits = kinds == ["network", "network"] && paid == "no";
    (!fits).then(|| format!("nobody listens: {kinds:?}, paid {paid}")).into_iter().collect()
}

//! Breaks gq on purpose, one promise after the other, and looks whether the suite notices. One that does
//! not would be worth nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::rig::Rig;
use super::{calls, checker, clocks, fence, power};

/// A place of the source that is broken where `GQ_BROKEN` says so.
struct Break {
    file: &'static str,
    sound: &'static str,
    broken: &'static str,
}

const BREAKS: [Break; 6] = [
    Break {
        file: "src/store/writer.rs",
        sound: "committed.map(|_| value).map_err(StoreError::from)",
        broken: "match committed { Err(_) if crate::broken(\"commit\") => Ok(value), \
                 other => other.map(|_| value).map_err(StoreError::from) }",
    },
    Break {
        file: "src/store/settle.rs",
        sound: "facts.job.owned = current && facts.job.state == JobState::Running;",
        broken: "facts.job.owned = (current || crate::broken(\"fence\")) \
                 && facts.job.state == JobState::Running;",
    },
    Break {
        file: "src/store/connection.rs",
        sound: ".synchronous(SqliteSynchronous::Full)",
        broken: ".synchronous(if crate::broken(\"normal\") { SqliteSynchronous::Normal } \
                 else { SqliteSynchronous::Full })",
    },
    Break {
        file: "src/store/connection.rs",
        sound: "found.2 == 2",
        broken: "found.2 == 2 || crate::broken(\"normal\")",
    },
    Break {
        file: "src/clock.rs",
        sound: "Moment { now: now(), boot: boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000 }",
        broken: "if crate::broken(\"clock\") { return Moment { now: now(), boot: now().0 }; } \
                 Moment { now: now(), boot: boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000 }",
    },
    Break {
        file: "src/store/settle.rs",
        sound: "        let finished = self.jobs.values()",
        broken: "        if crate::broken(\"outside\") && !self.answers.is_empty() {
            let mut this = self;
            let answers = std::mem::take(&mut this.answers);
            Box::pin(this.write(connection, now)).await?;
            sqlx::query(\"COMMIT\").execute(&mut *connection).await?;
            sqlx::query(\"BEGIN IMMEDIATE\").execute(&mut *connection).await?;
            sqlx::query(\"INSERT OR REPLACE INTO answers (job_id, raw) \
             SELECT value ->> 0, value ->> 1 FROM jsonb_each($1)\")
                .bind(bulk::json(&answers)?).execute(&mut *connection).await?;
            return Ok(());
        }
        let finished = self.jobs.values()",
    },
];

/// What is broken, and the part of the suite that has to notice.
const CONTROLS: [(&str, fn(&Rig) -> Vec<String>); 5] = [
    ("commit", calls::round),
    ("fence", fence::round),
    ("normal", power::round),
    ("clock", clocks::round),
    ("outside", calls::round),
];

pub(crate) fn round(rig: &Rig) -> Vec<String> {
    // Always the same, so that what was built there is built anew and not once more.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    let program = build(&folder);
    let mut unnoticed = checker::unnoticed();
    for (broken, part) in CONTROLS {
        let found = part(&rig.with(&program, broken));
        match found.first() {
            Some(first) => println!("  {broken}: noticed: {first}"),
            None => unnoticed.push(format!("nobody notices that `{broken}` is broken")),
        }
    }
    let sound = fence::round(&rig.with(&program, "nothing"));
    unnoticed.extend(sound.into_iter().map(|fault| format!("what is not broken: {fault}")));
    unnoticed
}

/// Builds the broken program in a folder of its own, with the libraries that are there already.
fn build(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["src", "migrations", ".cargo"] {
        copy(&root.join(name), &folder.join(name));
    }
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let binary = "[[bin]]\nname = \"gq\"";
    assert!(manifest.contains(binary));
    fs::write(folder.join("Cargo.toml"), manifest.replace(binary, "[[bin]]\nname = \"gq-broken\""))
        .unwrap();
    // The manifest names them; the tests' libraries take part in how all others are built.
    for target in [
        "benches/gq/main.rs",
        "benches/simulate.rs",
        "tests/it/main.rs",
        "tests/cost/main.rs",
        "tests/torture/main.rs",
        "tests/fuzz/main.rs",
        "examples/web.rs",
    ] {
        fs::create_dir_all(folder.join(target).parent().unwrap()).unwrap();
        fs::write(folder.join(target), "//! Only its libraries count.\nfn main() {}\n").unwrap();
    }
    for Break { file, sound, broken } in BREAKS {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.matches(sound).count(),
            1,
            "{file} has no longer what is to be broken: {sound}"
        );
        fs::write(&path, text.replace(sound, broken)).unwrap();
    }
    let library = folder.join("src/lib.rs");
    let text = fs::read_to_string(&library).unwrap();
    let asks = "\nfn broken(what: &str) -> bool {\n    \
                std::env::var(\"GQ_BROKEN\").is_ok_and(|broken| broken == what)\n}\n";
    fs::write(&library, text + asks).unwrap();
    compile(folder)
}

fn compile(folder: &Path) -> PathBuf {
    let sound = Path::new(env!("CARGO_BIN_EXE_gq"));
    let profile = sound.parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--offline", "--quiet", "--bin", "gq-broken", "--test", "cost"])
        .env("CARGO_TARGET_DIR", profile.parent().unwrap())
        .current_dir(folder);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the broken program can be built");
    profile.join("gq-broken")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

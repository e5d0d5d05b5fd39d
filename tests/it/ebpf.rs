use std::ops::ControlFlow;

use tapio::collector::ebpf::{Loaded, Options, load};
use tapio::config::Settings;
use tapio::event::Event;

/// Guarantees: it loads.
#[test]
fn live_load() {
    let mut options = Options::from(&Settings { load_probe: true, ..Settings::default() });
    options.load_probe = true;
    let mut loaded: Loaded = load(&options).expect("loads");
    eprintln!("{loaded:#?}");
    std::process::Command::new("true").status().unwrap();
    std::process::Command::new("false").status().unwrap();
    rustix::process::getpgid(None).unwrap();
    loaded.detach();
    let Loaded { bulk, urgent, .. } = &mut loaded;
    for ring in bulk.iter_mut().map(|(_, ring)| ring).chain([urgent]) {
        ring.drain(|words| {
            let event = Event::parse(words).unwrap();
            eprintln!(
                "{:?} {:x?} {:?}",
                event.header(),
                event.slots(),
                String::from_utf8_lossy(event.text())
            );
            ControlFlow::Continue(())
        });
    }
}

//! Runs each model. They are not unit tests because `ring.rs` brings its own, which need the real memory.

#[test]
fn records_arrive_whole_and_once() {
    tapio_model::records_arrive_whole_and_once();
}

#[test]
fn space_is_reused_only_after_it_was_read() {
    tapio_model::space_is_reused_only_after_it_was_read();
}

#[test]
fn no_wake_up_is_lost() {
    tapio_model::no_wake_up_is_lost();
}

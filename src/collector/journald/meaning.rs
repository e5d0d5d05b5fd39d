//! What the `MESSAGE_ID` of an entry means.
//!
//! Invariants:
//! - An id means something only in entries of the program that owns it: any process can log any id.

/// Whose entries an id is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The service manager of the host or of a user.
    Manager,
    /// journald itself.
    Journal,
    /// What stores core dumps.
    Coredump,
    /// Whatever runs as root.
    Root,
    /// The service of this unit.
    Unit(&'static str),
}

/// One row of [`MEANINGS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meaning {
    /// The id, in the order of its hexadecimal digits.
    pub(super) id: u128,
    /// What the entry says, in `snake_case`.
    pub(super) name: &'static str,
    /// Who may say so.
    pub(super) by: By,
    /// It is about a failure.
    pub(super) failure: bool,
}

const fn row(id: u128, name: &'static str, by: By) -> Meaning {
    Meaning { id, name, by, failure: false }
}

impl Meaning {
    const fn failure(mut self) -> Self {
        self.failure = true;
        self
    }
}

/// Entries that journald dropped for a service that logged too fast.
pub(super) const RATE_LIMITED: u128 = 0xa596_d6fe_7bfa_4994_828e_7230_9e95_d61e;

/// Messages of the kernel that were overwritten before journald read them.
pub(super) const KERNEL_MISSED: u128 = 0xe9bf_28e6_e834_481b_b6f4_8f54_8ad1_3606;

/// A word of the kubelet on a container or a pod. It has no id.
pub(super) const KUBELET: Meaning = row(0, "kubelet_says", By::Root);

/// Every id that diagnosis knows.
pub(super) const MEANINGS: &[Meaning] = &[
    row(0x7d49_58e8_42da_4a75_8f6c_1cdc_7b36_dcc5, "unit_starting", By::Manager),
    row(0x39f5_3479_d3a0_45ac_8e11_7862_4823_1fbf, "unit_started", By::Manager),
    // The manager's own header calls it UNIT_FAILED: what failed is the job.
    row(0xbe02_cf68_55d2_428b_a40d_f7e9_d022_f03d, "start_job_failed", By::Manager).failure(),
    row(0xde5b_426a_63be_47a7_b6ac_3eaa_c82e_2f6f, "unit_stopping", By::Manager),
    row(0x9d1a_aa27_d601_40bd_9636_5438_aad2_0286, "unit_stopped", By::Manager),
    row(0xd9b3_73ed_55a6_4feb_8242_e02d_be79_a49c, "unit_failed", By::Manager).failure(),
    row(0x7ad2_d189_f7e9_4e70_a38c_7813_5491_2448, "unit_succeeded", By::Manager),
    row(0x0e42_84a0_caca_4bfc_81c0_bb67_8697_2673, "unit_skipped", By::Manager),
    row(0xd34d_037f_ff18_47e6_ae66_9a37_0e69_4725, "unit_reloading", By::Manager),
    row(0x7b05_ebc6_6838_4222_baa8_8811_79cf_da54, "unit_reloaded", By::Manager),
    row(0x98e3_2220_3f7a_4ed2_90d0_9fe0_3c09_fe15, "process_exited", By::Manager).failure(),
    row(0xfe6f_aa94_e777_4663_a0da_5271_7891_d8ef, "unit_out_of_memory", By::Manager).failure(),
    row(0xd989_611b_15e4_4c9d_bf31_e3c8_1256_e4ed, "unit_killed_by_oomd", By::Manager).failure(),
    row(0x5eb0_3494_b658_4870_a536_b337_2908_09b3, "restart_scheduled", By::Manager).failure(),
    row(0x6412_5765_1c1b_4ec9_a862_4d7a_40a9_e1e7, "spawn_failed", By::Manager).failure(),
    row(0xae8f_7b86_6b03_47b9_af31_fe1c_80b1_27c0, "resources_consumed", By::Manager),
    row(0xb07a_249c_d024_414a_82dd_00cd_1813_78ff, "startup_finished", By::Manager),
    row(0xf27a_3f94_406a_4783_b946_a9bc_849e_9452, "ordering_cycle", By::Manager).failure(),
    row(0xc772_d24e_9a88_4cbe_b9ea_1262_5c30_6c01, "bad_unit_file", By::Manager).failure(),
    row(0xc7a7_8707_9b35_4eaa_a9e7_7b37_1893_cd27, "clock_changed", By::Root).failure(),
    row(
        0x7c8a_41f3_7b76_4941_a0e1_780b_1be2_f037,
        "clock_synchronised",
        By::Unit("systemd-timesyncd.service"),
    ),
    row(0x9826_8866_d1d5_4a49_9c4e_9892_1d93_bc40, "shutdown", By::Root),
    row(0x6bbd_95ee_9779_41e4_97c4_8be2_7c25_4128, "sleep_entered", By::Root),
    row(0x8811_e6df_2a8e_40f5_8a94_cea2_6f8e_bf14, "sleep_left", By::Root),
    row(0xfc2e_22bc_6ee6_47b6_b907_29ab_34a2_50b1, "core_dumped", By::Coredump).failure(),
    row(0x5aad_d8e9_54dc_4b1a_8c95_4d63_fd9e_1137, "core_truncated", By::Coredump).failure(),
    row(0x1f4e_0a44_a886_4993_9aae_a34f_c6da_8c95, "core_backtrace", By::Coredump).failure(),
    row(RATE_LIMITED, "messages_dropped", By::Journal),
    row(KERNEL_MISSED, "kernel_messages_missed", By::Journal),
    row(0xf773_79a8_490b_408b_be5f_6940_505a_777b, "journal_started", By::Journal),
    row(0xd93f_b3c9_c24d_451a_97ce_a615_ce59_c00b, "journal_stopped", By::Journal),
    row(0xec38_7f57_7b84_4b8f_a948_f33c_ad9a_75e6, "journal_usage", By::Journal),
    row(0x1675_d7f1_7217_4098_b110_8bf8_c7dc_8f5d, "dnssec_failure", By::Unit("systemd-resolved.service"))
        .failure(),
];

/// The row of this id.
pub(super) fn of(id: u128) -> Option<&'static Meaning> {
    MEANINGS.iter().find(|meaning| meaning.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the table, and the message catalog of the systemd that is installed here, if one is.
    /// Guarantees: ids and names are unique; most ids are in that catalog, as they are public.
    #[test]
    fn the_table_agrees_with_the_catalog() {
        let ids: std::collections::BTreeSet<_> = MEANINGS.iter().map(|row| row.id).collect();
        let names: std::collections::BTreeSet<_> = MEANINGS.iter().map(|row| row.name).collect();
        assert_eq!((ids.len(), names.len()), (MEANINGS.len(), MEANINGS.len()));
        let Ok(catalog) = std::fs::read_to_string("/usr/lib/systemd/catalog/systemd.catalog") else { return };
        let unknown: Vec<_> =
            MEANINGS.iter().filter(|row| !catalog.contains(&format!("-- {:032x}", row.id))).collect();
        // Messages that have no explanation in the catalog of version 252.
        let expected = ["unit_killed_by_oomd", "ordering_cycle", "bad_unit_file", "core_backtrace"];
        assert!(unknown.iter().all(|row| expected.contains(&row.name)), "{unknown:?}");
    }

    /// Scenario: known ids and one that nobody has.
    /// Guarantees: each finds its row, the last none.
    #[test]
    fn ids_find_their_meaning() {
        let name = |id| of(id).map(|row| (row.name, row.failure));
        assert_eq!(name(0xd9b3_73ed_55a6_4feb_8242_e02d_be79_a49c), Some(("unit_failed", true)));
        assert_eq!(name(RATE_LIMITED), Some(("messages_dropped", false)));
        assert_eq!(name(7), None);
    }
}

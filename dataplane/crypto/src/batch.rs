//! A burst of jobs at once. Each job says by its key which engine does it; the engines that work across packets take all of
//! theirs together.

#[cfg(target_arch = "x86_64")]
use crate::vaes512;
use crate::{OpenJob, SealJob, Verdict};

/// Seals all jobs. Cannot fail, and does the same again when called again.
#[inline]
pub fn seal_batch(jobs: &mut [SealJob<'_>]) {
    #[cfg(target_arch = "x86_64")]
    vaes512::run(jobs, |_, _| {}, |job, _| job.run());
    #[cfg(not(target_arch = "x86_64"))]
    jobs.iter_mut().for_each(SealJob::run);
}

/// Opens all jobs and tells of each, in order, whether it is authentic. A job for which `verdicts` has no room is refused
/// unopened, and a verdict without a job is [`Verdict::Forged`].
#[inline]
pub fn open_batch(jobs: &mut [OpenJob<'_>], verdicts: &mut [Verdict]) {
    verdicts.fill(Verdict::Forged);
    let room = verdicts.len().min(jobs.len());
    let Some((jobs, without_room)) = jobs.split_at_mut_checked(room) else {
        return;
    };
    without_room.iter_mut().for_each(OpenJob::refuse);
    #[cfg(target_arch = "x86_64")]
    {
        let (decided, _) = verdicts.split_at_mut(room);
        decided.fill(Verdict::Authentic);
        let forged = core::cell::Cell::from_mut(decided).as_slice_of_cells();
        vaes512::run(
            jobs,
            |job, at| {
                job.refuse();
                forged[at].set(Verdict::Forged);
            },
            |job, at| forged[at].set(job.run()),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (job, verdict) in jobs.iter_mut().zip(verdicts) {
        *verdict = job.run();
    }
}

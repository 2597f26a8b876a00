//! A burst of jobs at once. Each job says by its key which engine does it; an engine that works across packets takes
//! runs of jobs that share it here.

use crate::{OpenJob, SealJob, Verdict};

/// Seals all jobs. Cannot fail, and does the same again when called again.
#[inline]
pub fn seal_batch(jobs: &mut [SealJob<'_>]) {
    for job in jobs {
        job.run();
    }
}

/// Opens all jobs and tells of each, in order, whether it is authentic. A job for which `verdicts` has no room is refused
/// unopened, and a verdict without a job is [`Verdict::Forged`].
#[inline]
pub fn open_batch(jobs: &mut [OpenJob<'_>], verdicts: &mut [Verdict]) {
    verdicts.fill(Verdict::Forged);
    let room = verdicts.len().min(jobs.len());
    if let Some((jobs, without_room)) = jobs.split_at_mut_checked(room) {
        for (job, verdict) in jobs.iter_mut().zip(verdicts) {
            *verdict = job.run();
        }
        without_room.iter_mut().for_each(OpenJob::refuse);
    }
}

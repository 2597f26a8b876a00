//! A burst of jobs at once. Each job says by its key which engine does it; the engines that work across packets take all of
//! theirs together.

use crate::{OpenJob, SealJob, Verdict};
#[cfg(target_arch = "x86_64")]
use crate::{chacha512, vaes256, vaes512};

/// Seals all jobs, and cannot fail. To be called once for them: what was sealed in place would be deciphered.
#[inline]
pub fn seal_batch(jobs: &mut [SealJob<'_>]) {
    #[cfg(target_arch = "x86_64")]
    run(jobs, |_, _| {}, |job, _| job.run());
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
        run(
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

/// Each engine that works across packets takes its own together, wherever in the burst they are, the first job's engine
/// first; the others go alone, and so do those of ChaCha20-Poly1305 if they are too few.
#[cfg(target_arch = "x86_64")]
#[inline]
fn run<J: chacha512::Job + vaes256::Job + vaes512::Job>(
    jobs: &mut [J],
    mut forged: impl FnMut(&mut J, usize),
    mut alone: impl FnMut(&mut J, usize),
) {
    let (mut chacha, mut other_vaes) = (0, false);
    let foreign = |job: &mut J, at| {
        if chacha512::Job::is_ours(job) {
            chacha += 1;
        } else if vaes256::Job::schedule(job).is_some() || vaes512::Job::packet(job).is_some() {
            other_vaes = true;
        } else {
            alone(job, at);
        }
    };
    if jobs.first().and_then(vaes256::Job::schedule).is_some() {
        vaes256::run(jobs, &mut forged, foreign);
        if other_vaes {
            vaes512::run(jobs, &mut forged, |_, _| {});
        }
    } else {
        vaes512::run(jobs, &mut forged, foreign);
        if other_vaes {
            vaes256::run(jobs, &mut forged, |_, _| {});
        }
    }
    if chacha >= chacha512::WORTHWHILE {
        chacha512::run(jobs, forged);
    } else if chacha > 0 {
        let few = jobs.iter_mut().enumerate();
        few.filter(|(_, job)| chacha512::Job::is_ours(*job))
            .for_each(|(at, job)| alone(job, at));
    }
}

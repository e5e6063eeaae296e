//! Output that is written by a thread of its own, so that the next segment of a stream is encrypted or decrypted meanwhile.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    thread,
};

/// Blocks that wait for the thread. A block is as long as a segment, so a stream needs less than 512 KiB.
const WAITING: usize = 4;

/// Runs `work` with a writer whose blocks are written to `output`, in order, and returns when all are written. Returns what
/// `work` returned, and the error of `output`, if any: `work` then got an error of its own from one of its writes.
pub(super) fn write_behind<T>(
    output: &mut (impl Write + Send),
    work: impl FnOnce(&mut dyn Write) -> T,
) -> (T, io::Result<()>) {
    let (full, to_write) = sync_channel(WAITING);
    let (written, empty) = channel();
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for block in to_write {
                let block: Vec<u8> = block;
                output.write_all(&block)?;
                let _ = written.send(block); // nobody waits for the last ones
            }
            output.flush()
        });
        let mut blocks = Blocks { full, empty };
        let done = work(&mut blocks);
        drop(blocks); // ends the thread
        (done, writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The side of the producer.
struct Blocks {
    full: SyncSender<Vec<u8>>,
    /// Blocks that were written, to use again.
    empty: Receiver<Vec<u8>>,
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut block = self.empty.try_recv().unwrap_or_default();
        block.clear();
        block.extend_from_slice(bytes);
        let len = block.len();
        self.full.send(block).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(len)
    }

    /// The thread flushes at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes this number of bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocks_are_written_in_order() {
        let mut output = Vec::new();
        let (done, written) = write_behind(&mut output, |blocks| {
            (0..100_u8).for_each(|at| blocks.write_all(&vec![at; usize::from(at) * 10]).unwrap());
            7
        });
        written.unwrap();
        assert_eq!(done, 7);
        assert_eq!(output, (0..100_u8).flat_map(|at| vec![at; usize::from(at) * 10]).collect::<Vec<_>>());
    }

    #[test]
    fn the_error_of_the_output_stops_the_work_and_is_returned() {
        let (done, written) = write_behind(&mut Disk(1000), |blocks| {
            (0..1_000_000).try_for_each(|_| blocks.write_all(&[0; 300]))
        });
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}

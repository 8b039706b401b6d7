//! The same client over plain loopback TCP: a thread answers every request with bytes from memory.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::report::Samples;
use crate::support::wire::read_frame;

/// Bytes of a request, about those of a fetch of one partition.
const REQUEST: usize = 80;

/// Asks for `answer` bytes again and again for `time`.
pub fn measure(answer: usize, time: Duration) -> Samples {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || serve(&listener, answer));
    let mut stream = TcpStream::connect(addr).expect("connects");
    stream.set_nodelay(true).expect("nodelay");
    let request = frame(REQUEST);
    let (mut samples, mut buffer, start) = (Samples::default(), Vec::new(), Instant::now());
    while start.elapsed() < time {
        let one = Instant::now();
        stream.write_all(&request).expect("sent");
        buffer = read_frame(&mut stream, buffer);
        samples.add(one.elapsed(), buffer.len() as u64);
    }
    drop(stream);
    server.join().expect("the server ends");
    samples
}

fn serve(listener: &TcpListener, answer: usize) {
    let (mut stream, _) = listener.accept().expect("a client");
    stream.set_nodelay(true).expect("nodelay");
    let (answer, mut request) = (frame(answer), vec![0; REQUEST + 4]);
    while std::io::Read::read_exact(&mut stream, &mut request).is_ok() {
        stream.write_all(&answer).expect("sent");
    }
}

fn frame(len: usize) -> Vec<u8> {
    let mut frame = u32::try_from(len).expect("a frame").to_be_bytes().to_vec();
    frame.resize(len + 4, 0x5a);
    frame
}

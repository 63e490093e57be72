//! `nsm-client`: in a guest, asks the kernel's own driver (`/dev/nsm`) by AWS's own crate, and prints what it found: a line
//! for each check, and the document in pieces, `file document.cose HEX`.
#![forbid(unsafe_code)]

use aws_nitro_enclaves_nsm_api::{
    api::{AttestationDoc, ErrorCode, Request, Response},
    driver::{nsm_init, nsm_process_request},
};
use std::{fs, process::ExitCode};

const NONCE: &[u8] = b"azote";
const PIECE: usize = 512;

struct Client {
    device: i32,
    failed: bool,
}

impl Client {
    fn ask(&self, request: Request) -> Response {
        nsm_process_request(self.device, request)
    }

    fn check(&mut self, name: &str, good: bool, text: &str) {
        self.failed |= !good;
        println!("{name} {} {text}", if good { "ok" } else { "FAIL" });
    }

    fn register(&self, index: u16) -> Option<(bool, Vec<u8>)> {
        match self.ask(Request::DescribePCR { index }) {
            Response::DescribePCR { lock, data } => Some((lock, data)),
            _ => None,
        }
    }

    fn describe(&mut self) {
        let (good, text) = match self.ask(Request::DescribeNSM) {
            Response::DescribeNSM { module_id, max_pcrs: 32, locked_pcrs, .. } => {
                (locked_pcrs.into_iter().eq(0..16), module_id)
            }
            other => (false, format!("{other:?}")),
        };
        self.check("nsm-describe", good, &text);
        let known =
            |index| self.register(index).is_some_and(|(lock, data)| lock && data.iter().any(|b| *b != 0));
        let good = [0, 4, 6].into_iter().all(known);
        self.check("nsm-registers", good, "image, instance and host are there and locked");
    }

    fn extend(&mut self) {
        let extend = || Request::ExtendPCR { index: 16, data: b"kernel".to_vec() };
        let one = self.ask(extend());
        let two = self.ask(extend());
        let (Response::ExtendPCR { data: one }, Response::ExtendPCR { data: two }) = (one, two) else {
            return self.check("nsm-extend", false, "it is refused");
        };
        let kept = self.register(16) == Some((false, two.clone())) && one != two;
        let locked = matches!(self.ask(Request::LockPCR { index: 16 }), Response::LockPCR);
        let refused = matches!(self.ask(extend()), Response::Error(ErrorCode::ReadOnlyIndex));
        self.check("nsm-extend", kept && locked && refused, "register 16 was extended, then locked");
    }

    fn random(&mut self) {
        let random = || match self.ask(Request::GetRandom) {
            Response::GetRandom { random } => random,
            _ => Vec::new(),
        };
        let (one, two) = (random(), random());
        let source = fs::read_to_string("/sys/class/misc/hw_random/rng_available").unwrap_or_default();
        let good = one.len() == 256 && one != two && source.contains("nsm");
        self.check("nsm-random", good, &format!("256 bytes; the kernel's sources: {}", source.trim()));
    }

    fn document(&mut self) {
        let ask = |nonce: &[u8]| Request::Attestation {
            user_data: Some(vec![1; 512].into()),
            nonce: Some(nonce.to_vec().into()),
            public_key: None,
        };
        let refused = matches!(self.ask(ask(&[0; 1025])), Response::Error(ErrorCode::InputTooLarge));
        let Response::Attestation { document } = self.ask(ask(NONCE)) else {
            return self.check("nsm-document", false, "there is none");
        };
        // The payload of a COSE_Sign1 with a protected header of four bytes and a length of two.
        let payload = document.get(10..).unwrap_or_default();
        let length = document.get(8..10).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]));
        let read = AttestationDoc::from_binary(payload.get(..length).unwrap_or_default());
        let good = read.is_ok_and(|doc| doc.nonce.is_some_and(|nonce| nonce.as_ref() == NONCE));
        for piece in document.chunks(PIECE) {
            let hex: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("file document.cose {hex}");
        }
        self.check("nsm-document", good && refused, &format!("{} bytes", document.len()));
    }
}

fn main() -> ExitCode {
    let mut client = Client { device: nsm_init(), failed: false };
    let there = client.device >= 0;
    client.check("nsm-driver", there, "the kernel's driver has the device");
    if there {
        client.describe();
        client.extend();
        client.random();
        client.document();
    }
    if client.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

use super::encode::control;
use super::*;

fn decode(bytes: &[u8]) -> Result<Vec<Event>, FrameError> {
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(bytes));
    let mut events = Vec::new();
    while let Some(event) = decoder.next(&mut buffer)? {
        events.push(event);
    }
    Ok(events)
}

fn conversation() -> Vec<u8> {
    let mut encoder = Encoder::default();
    let headers = Headers::new(&[("streamtype", "stdin")]);
    [
        encoder.syn_stream(1, &headers, false),
        encoder.syn_reply(3),
        data(1, 5, false).to_vec(),
        b"hello".to_vec(),
        data(1, 0, true).to_vec(),
        reset(1, ResetStatus::Cancel),
        limits(100, 1 << 20),
        ping(7),
        window_update(0, 9),
        go_away(1, false),
    ]
    .concat()
}

fn expected() -> Vec<Event> {
    let data = |bytes: &'static [u8], last| Event::Data {
        stream: 1,
        bytes: Bytes::from_static(bytes),
        last,
    };
    vec![
        Event::SynStream {
            stream: 1,
            headers: Headers::new(&[("streamtype", "stdin")]),
            last: false,
            unidirectional: false,
        },
        Event::SynReply { stream: 3 },
        data(b"hello", false),
        data(b"", true),
        Event::Reset { stream: 1, status: 5 },
        Event::Settings {
            initial_window: Some(1 << 20),
        },
        Event::Ping(7),
        Event::WindowUpdate { stream: 0, delta: 9 },
        Event::GoAway,
    ]
}

#[test]
fn every_frame_comes_back_as_it_was_meant() {
    assert_eq!(decode(&conversation()), Ok(expected()));
}

#[test]
fn frames_survive_any_chunking() {
    let bytes = conversation();
    for step in [1, 3, 7, 8, 9, 13] {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        let (mut data, mut others) = (Vec::new(), 0);
        for part in bytes.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(event) = decoder.next(&mut buffer).expect("valid frames") {
                match event {
                    Event::Data { bytes, .. } => data.extend_from_slice(&bytes),
                    _ => others += 1,
                }
            }
        }
        assert_eq!(
            (data.as_slice(), others),
            (&b"hello"[..], 7),
            "in steps of {step}"
        );
    }
}

#[test]
fn a_large_frame_is_handed_on_in_parts() {
    let mut bytes = data(5, 0x00ff_ffff, true).to_vec();
    bytes.extend(vec![1; 3 * MAX_CHUNK]);
    let events = decode(&bytes).expect("valid so far");
    assert_eq!(events.len(), 3);
    let whole =
        |event: &Event| matches!(event, Event::Data { bytes, last: false, .. } if bytes.len() == MAX_CHUNK);
    assert!(events.iter().all(whole), "none of them is the last");
}

#[test]
fn hostile_frames_are_refused() {
    let refused = |bytes: &[u8]| decode(bytes).expect_err("refused");
    assert_eq!(refused(&[0; 8]), FrameError::Stream);
    assert_eq!(refused(&[0x80, 2, 0, 1, 0, 0, 0, 0]), FrameError::Version(2));
    assert_eq!(
        refused(&[0x80, 3, 0, 1, 0, 255, 255, 255]),
        FrameError::Length {
            kind: 1,
            length: 0x00ff_ffff
        },
        "before any of it is waited for"
    );
    assert_eq!(
        refused(&control(SETTINGS, 0, &0x2000_0001_u32.to_be_bytes())),
        FrameError::Length { kind: 4, length: 4 },
        "a count that is not there"
    );
    assert_eq!(refused(&window_update(1, 0)), FrameError::Window);
    assert_eq!(refused(&reset(0, ResetStatus::Cancel)), FrameError::Stream);
    assert_eq!(
        refused(&control(PING, 0, &[0; 5])),
        FrameError::Length { kind: 6, length: 5 }
    );
}

#[test]
fn unknown_control_frames_are_skipped() {
    assert_eq!(decode(&control(11, 0, b"whatever")), Ok(vec![Event::Unknown]));
}

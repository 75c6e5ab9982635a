use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::{DESCRIPTORS, pb};

static RUN_STATUS: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the descriptors of this build");
    pool.get_message_by_name("retort.v1.RunStatus")
        .expect("it is in status.proto")
});

/// A run's status as `retort status --json` prints it: every field of the message under its own name,
/// integers as numbers, zeros too.
pub fn run_status_json(status: &pb::RunStatus) -> String {
    let message = DynamicMessage::decode(RUN_STATUS.clone(), status.encode_to_vec().as_slice())
        .expect("the same message");
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    let value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("a message without `Any` is always JSON");
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_every_field_by_its_name_and_numbers_as_numbers() {
        let status = pb::RunStatus {
            run: "r".into(),
            seed: 7,
            age_s: f64::NAN,
            groups: vec![pb::GroupStatus::default()],
            ..Default::default()
        };
        let json: serde_json::Value = serde_json::from_str(&run_status_json(&status)).unwrap();
        assert_eq!(json["seed"], 7);
        assert_eq!(json["positions_per_epoch"], 0);
        assert_eq!(json["age_s"], "NaN");
        assert_eq!(json["groups"][0]["epochs"], 0);
    }
}

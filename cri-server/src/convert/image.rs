//! Images: from the store's view of them to CRI's.

use cri_api::v1;
use image::Image;
use image::config::ImageUser;

/// The row of a listing, and the status.
pub fn listed(image: &Image) -> v1::Image {
    let (uid, username) = match image.config.user() {
        Some(ImageUser::Uid(uid)) => (
            Some(v1::Int64Value {
                value: i64::from(uid),
            }),
            String::new(),
        ),
        Some(ImageUser::Name(name)) => (None, name),
        None => (None, String::new()),
    };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: Some(v1::ImageSpec {
            image: image.id.to_string(),
            ..v1::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

//! How long offsets are kept: topics that are deleted or made again, retention, groups that consume.

use super::*;

#[test]
fn offsets_of_a_deleted_topic_are_forgotten() {
    let world = World::new(6);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        // Deleted and created again under the same name.
        node.controller.set_image(image(2, Some(3)));
        assert_eq!(committed(&groups).await, None);
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        assert_eq!(committed(&node.start()).await, None);
        node.controller.set_image(image(3, None));
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Err(GroupError::UnknownPartition)]));
    });
}

#[test]
fn offsets_of_a_topic_made_anew_before_they_are_loaded_are_forgotten() {
    let world = World::new(11);
    let node = Node::new(&world);
    world.block_on(async {
        assert_eq!(node.start().commit(g(), commit(5000)).await, Ok(vec![Ok(())]));
        // After a restart, before the first request for the group, the topic is deleted and created again.
        node.controller.set_image(image(2, Some(3)));
        let groups = node.start();
        assert_eq!(committed(&groups).await, None);
        assert_eq!(groups.commit(g(), commit(1)).await, Ok(vec![Ok(())]));
        assert_eq!(committed(&node.start()).await, Some(1));
    });
}

#[test]
fn a_commit_that_waits_while_its_topic_is_deleted_is_not_of_the_next_one() {
    let world = World::new(12);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        assert_eq!(committed(&groups).await, None);
        let gone = async {
            node.controller.set_image(image(2, None));
            assert_eq!(committed(&groups).await, None);
        };
        let (done, ()) = futures::join!(groups.commit(g(), commit(5000)), gone);
        assert_eq!(done, Ok(vec![Ok(())]));
        node.controller.set_image(image(3, Some(3)));
        assert_eq!(committed(&groups).await, None);
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        assert_eq!(committed(&node.start()).await, None);
    });
}

#[test]
fn a_commit_to_a_topic_made_anew_outlives_one_to_the_last() {
    // The commit to the deleted topic is in flight when the next comes, or waits with it for the same append.
    for waits in [false, true] {
        let world = World::new(13);
        let node = Node::new(&world);
        world.block_on(async {
            let groups = node.start();
            assert_eq!(committed(&groups).await, None);
            let after = |ms| node.env.tasks.sleep(Duration::from_millis(ms));
            let before = async {
                if waits {
                    assert_eq!(groups.commit(g(), commit(1)).await, Ok(vec![Ok(())]));
                }
            };
            let old = async {
                after(1).await;
                groups.commit(g(), commit(5000)).await
            };
            let again = async {
                after(3).await;
                node.controller.set_image(image(2, None));
                assert_eq!(committed(&groups).await, None);
                node.controller.set_image(image(3, Some(3)));
                assert_eq!(groups.commit(g(), commit(6000)).await, Ok(vec![Ok(())]));
            };
            let ((), done, ()) = futures::join!(before, old, again);
            assert_eq!(done, Ok(vec![Ok(())]));
            assert_eq!(committed(&groups).await, Some(6000), "waits: {waits}");
            node.env.tasks.sleep(Duration::from_millis(100)).await;
            assert_eq!(committed(&groups).await, Some(6000), "waits: {waits}");
            assert_eq!(committed(&node.start()).await, Some(6000), "waits: {waits}");
        });
    }
}

#[test]
fn offsets_lapse_and_their_group_with_them() {
    let world = World::new(7);
    let mut node = Node::new(&world);
    node.settings.offsets_retention_ms = 3_600_000;
    world.block_on(async {
        let groups = node.start();
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        node.env.tasks.sleep(Duration::from_secs(3000)).await;
        assert_eq!(committed(&groups).await, Some(5));
        node.env.tasks.sleep(Duration::from_secs(1300)).await;
        assert_eq!(committed(&groups).await, None);
        assert_eq!(groups.list().await.expect("lists"), []);
    });
}

#[test]
fn a_group_that_consumes_keeps_the_offsets_of_its_topics_alone() {
    for (topic, kept) in [(b't', Some(5)), (b'u', None)] {
        let world = World::new(9);
        let mut node = Node::new(&world);
        node.settings.offsets_retention_ms = 3_600_000;
        world.block_on(async {
            let groups = node.start();
            assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
            let joined = join_for(&groups, topic).await;
            for _ in 0..900 {
                node.env.tasks.sleep(Duration::from_secs(5)).await;
                beat(&groups, &joined).await.expect("lives");
            }
            assert_eq!(committed(&groups).await, kept);
            assert_eq!(groups.describe(g()).await.expect("known").state, StateName::Stable);
        });
    }
}

#[test]
fn offsets_in_use_are_not_deleted() {
    let world = World::new(8);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        let joined = join_alone(&groups).await;
        let ask = CommitAsk { member: Some(joined.member.clone()), generation: joined.generation, ..commit(5) };
        assert_eq!(groups.commit(g(), ask).await, Ok(vec![Ok(())]));
        let keys = || vec![("t".to_owned(), 0), ("other".to_owned(), 0)];
        let answers = groups.delete_offsets(g(), keys()).await;
        assert_eq!(answers, Ok(vec![Err(GroupError::Subscribed), Ok(())]));
        node.env.tasks.sleep(Duration::from_secs(11)).await;
        assert_eq!(groups.delete_offsets(g(), keys()).await, Ok(vec![Ok(()), Ok(())]));
        assert_eq!(committed(&groups).await, None);
        assert_eq!(committed(&node.start()).await, None);
    });
}

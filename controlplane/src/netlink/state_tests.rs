use super::*;

fn route(last: u8, metric: u32, link: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 24;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 0))),
        RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, last))),
        RouteAttribute::Priority(metric),
        RouteAttribute::Oif(link),
    ];
    message
}

fn gateway(state: &State) -> Option<u8> {
    let route = state
        .tables
        .routes
        .get(&prefix(Ipv4Addr::new(10, 0, 0, 0), 24))?;
    match route.gateway? {
        IpAddr::V4(address) => Some(address.octets()[3]),
        IpAddr::V6(_) => None,
    }
}

fn new(message: RouteMessage) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewRoute(message)
}

fn del(message: RouteMessage) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelRoute(message)
}

#[test]
fn the_lowest_metric_counts_and_the_next_takes_its_place() {
    let mut state = State::default();
    assert_eq!(state.apply(&new(route(1, 200, 2)), 0), Effect::Changed);
    assert_eq!(state.apply(&new(route(2, 100, 2)), 0), Effect::Changed);
    assert_eq!(state.apply(&new(route(3, 300, 2)), 0), Effect::None);
    assert_eq!(gateway(&state), Some(2));
    state.apply(&del(route(2, 100, 2)), 0);
    assert_eq!(gateway(&state), Some(1));
    state.apply(&del(route(1, 200, 2)), 0);
    state.apply(&del(route(3, 300, 2)), 0);
    assert_eq!(gateway(&state), None);
    assert!(state.routes.is_empty());
}

#[test]
fn replaced_appended_and_repeated_routes() {
    let mut state = State::default();
    state.apply(&new(route(1, 0, 2)), 0);
    state.apply(&new(route(2, 0, 2)), NLM_F_APPEND);
    assert_eq!(gateway(&state), Some(1));
    state.apply(&new(route(3, 0, 2)), NLM_F_REPLACE);
    assert_eq!(gateway(&state), Some(3));
    // The same message again, as after a dump.
    assert_eq!(
        state.apply(&new(route(3, 0, 2)), NLM_F_REPLACE),
        Effect::None
    );
    state.apply(&del(route(3, 0, 2)), 0);
    assert_eq!(gateway(&state), Some(2));
}

#[test]
fn other_tables_and_families_do_not_concern_us() {
    let mut state = State::default();
    let mut guard = route(1, 0, 2);
    guard.attributes.push(RouteAttribute::Table(4301));
    let mut other = route(1, 0, 2);
    other.header.address_family = AddressFamily::Inet6;
    let mut throw = route(1, 0, 2);
    throw.header.kind = RouteType::Throw;
    for message in [guard, other, throw] {
        assert_eq!(state.apply(&new(message), 0), Effect::None);
    }
}

#[test]
fn unreachable_and_own_prefixes_leave_by_no_link() {
    let mut state = State::default();
    let mut unreachable = route(1, 0, 1);
    unreachable.header.kind = RouteType::Unreachable;
    state.apply(&new(unreachable), 0);
    let key = prefix(Ipv4Addr::new(10, 0, 0, 0), 24);
    assert_eq!(
        state.tables.routes[&key],
        Route {
            unreachable: true,
            ..Route::default()
        }
    );
    let mut own = route(1, 0, 1);
    own.header.kind = RouteType::Local;
    own.header.table = 255;
    state.apply(&new(own), 0);
    assert_eq!(state.tables.routes[&key], Route::default());
}

#[test]
fn of_several_next_hops_the_first_alive_is_taken() {
    use rtnetlink::packet_route::route::RouteNextHopFlags as Flags;
    let next_hop = |link, flags| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = link;
        hop.flags = flags;
        hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(
            192, 0, 2, link as u8,
        )))];
        hop
    };
    let mut message = route(9, 0, 9);
    message
        .attributes
        .retain(|attribute| matches!(attribute, RouteAttribute::Destination(_)));
    message.attributes.push(RouteAttribute::MultiPath(vec![
        next_hop(7, Flags::Dead),
        next_hop(8, Flags::empty()),
    ]));
    let mut state = State::default();
    state.apply(&new(message), 0);
    assert_eq!(gateway(&state), Some(8));
}

fn neighbor(state: NeighbourState, flags: NeighbourExtFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = 2;
    message.header.state = state;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(192, 0, 2, 1))),
        NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        NeighbourAttribute::ExtFlags(flags),
    ];
    message
}

#[test]
fn a_neighbour_is_there_while_packets_can_be_sent_to_it() {
    let mut state = State::default();
    let message =
        |now| RouteNetlinkMessage::NewNeighbour(neighbor(now, NeighbourExtFlags::empty()));
    assert_eq!(
        state.apply(&message(NeighbourState::Incomplete), 0),
        Effect::None
    );
    assert_eq!(
        state.apply(&message(NeighbourState::Reachable), 0),
        Effect::Changed
    );
    assert_eq!(
        state.apply(&message(NeighbourState::Stale), 0),
        Effect::None
    );
    assert_eq!(state.tables.neighbors.len(), 1);
    assert_eq!(
        state.apply(&message(NeighbourState::Failed), 0),
        Effect::Changed
    );
    assert!(state.tables.neighbors.is_empty());
    state.apply(&message(NeighbourState::Permanent), 0);
    assert!(state.is_fixed(2, Ipv4Addr::new(192, 0, 2, 1).into()));
}

#[test]
fn only_neighbours_that_nobody_looks_after_are_neglected() {
    let message = |now, flags| RouteNetlinkMessage::NewNeighbour(neighbor(now, flags));
    assert!(neglected(&message(NeighbourState::Stale, NeighbourExtFlags::empty())).is_some());
    assert!(neglected(&message(NeighbourState::Stale, NeighbourExtFlags::Managed)).is_none());
    assert!(
        neglected(&message(
            NeighbourState::Reachable,
            NeighbourExtFlags::empty()
        ))
        .is_none()
    );
    let gone = RouteNetlinkMessage::DelNeighbour(neighbor(
        NeighbourState::None,
        NeighbourExtFlags::Managed,
    ));
    assert!(neglected(&gone).is_some());
}

#[test]
fn a_link_that_goes_down_makes_the_routes_stale() {
    let link = |flags| {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName("eth2".into()),
            LinkAttribute::Mtu(1500),
        ];
        message
    };
    let mut state = State::default();
    let up = link(LinkFlags::Up | LinkFlags::Running);
    assert_eq!(
        state.apply(&RouteNetlinkMessage::NewLink(up.clone()), 0),
        Effect::Changed
    );
    assert_eq!(
        state.apply(&RouteNetlinkMessage::NewLink(up.clone()), 0),
        Effect::None
    );
    assert_eq!(
        state.apply(&RouteNetlinkMessage::NewLink(link(LinkFlags::empty())), 0),
        Effect::Stale
    );
    assert_eq!(
        state.apply(&RouteNetlinkMessage::DelLink(up), 0),
        Effect::Stale
    );
    assert!(state.tables.links.is_empty());
}

use super::*;

fn prefix(address: impl Into<IpAddr>, length: u8) -> (IpAddr, u8) {
    (address.into(), length)
}

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
    other.header.address_family = AddressFamily::Mpls;
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

/// The same for IPv6: a route to 2001:db8:1::/48.
fn route6(gateway: &str, metric: u32, link: u32) -> RouteMessage {
    let mut message = route(1, metric, link);
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = 48;
    let (to, via) = ("2001:db8:1::".parse().unwrap(), gateway.parse().unwrap());
    message.attributes[..2].clone_from_slice(&[
        RouteAttribute::Destination(RouteAddress::Inet6(to)),
        RouteAttribute::Gateway(RouteAddress::Inet6(via)),
    ]);
    message
}

#[test]
fn routes_of_ipv6_are_followed() {
    let mut state = State::default();
    let key = prefix("2001:db8:1::".parse::<IpAddr>().unwrap(), 48);
    let via = |state: &State| Some(state.tables.routes.get(&key)?.gateway?.to_string());
    assert_eq!(
        state.apply(&new(route6("fe80::1", 1024, 2)), 0),
        Effect::Changed
    );
    assert_eq!(
        state.apply(&new(route6("2001:db8::2", 100, 2)), 0),
        Effect::Changed
    );
    assert_eq!(via(&state).as_deref(), Some("2001:db8::2"));
    state.apply(&del(route6("2001:db8::2", 100, 2)), 0);
    assert_eq!(via(&state).as_deref(), Some("fe80::1"));
    // What is told of one of several next hops is not all of them.
    for flags in [0, NLM_F_REPLACE, NLM_F_APPEND | NLM_F_REPLACE] {
        let another = new(route6("fe80::2", 1024, 2));
        assert_eq!(state.apply(&another, flags), Effect::Stale);
    }
    let unknown = del(route6("fe80::3", 1024, 2));
    assert_eq!(state.apply(&unknown, 0), Effect::Stale);
    // In a dump, the routes of several links are equal.
    let elsewhere = new(route6("fe80::2", 1024, 3));
    assert_eq!(state.apply(&elsewhere, NLM_F_APPEND), Effect::None);
    assert_eq!(via(&state).as_deref(), Some("fe80::1"));
    let one = del(route6("fe80::1", 1024, 2));
    assert_eq!(state.apply(&one, 0), Effect::Stale);
}

#[test]
fn what_is_of_one_link_is_left_out_but_as_a_neighbour() {
    let mut state = State::default();
    for network in ["fe80::", "ff00::"] {
        let mut message = route6("fe80::1", 256, 2);
        message.attributes[0] =
            RouteAttribute::Destination(RouteAddress::Inet6(network.parse().unwrap()));
        assert_eq!(state.apply(&new(message), 0), Effect::None);
    }
    let mut link = LinkMessage::default();
    link.header.index = 2;
    state.apply(&RouteNetlinkMessage::NewLink(link), 0);
    let own = |text: &str| {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.index = 2;
        message.attributes = vec![AddressAttribute::Address(text.parse().unwrap())];
        RouteNetlinkMessage::NewAddress(message)
    };
    assert_eq!(state.apply(&own("fe80::5"), 0), Effect::None);
    assert_eq!(state.apply(&own("2001:db8::1"), 0), Effect::Changed);
    assert_eq!(state.tables.links[&2].addresses.len(), 1);
    let seen = |text: &str| {
        let mut message = neighbor(NeighbourState::Stale, NeighbourExtFlags::empty());
        message.header.family = AddressFamily::Inet6;
        let address = text.parse().unwrap();
        message.attributes[0] = NeighbourAttribute::Destination(NeighbourAddress::Inet6(address));
        RouteNetlinkMessage::NewNeighbour(message)
    };
    assert_eq!(state.apply(&seen("fe80::1"), 0), Effect::Changed);
    assert!(neglected(&seen("fe80::1")).is_some());
    assert_eq!(state.apply(&seen("ff02::1"), 0), Effect::None);
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

#[test]
fn the_longest_prefix_leads_to_an_address() {
    let mut tables = Tables::default();
    let leads = |link| Route {
        interface: Some(link),
        ..Route::default()
    };
    tables
        .routes
        .insert(prefix(Ipv4Addr::UNSPECIFIED, 0), leads(1));
    tables
        .routes
        .insert(prefix(Ipv4Addr::new(10, 0, 0, 0), 8), leads(2));
    tables
        .routes
        .insert(prefix(Ipv4Addr::new(10, 0, 0, 1), 32), leads(3));
    let link = |address: [u8; 4]| tables.route_to(address.into()).and_then(|to| to.interface);
    assert_eq!(link([10, 0, 0, 1]), Some(3));
    assert_eq!(link([10, 0, 0, 2]), Some(2));
    assert_eq!(link([11, 0, 0, 2]), Some(1));
    assert_eq!(tables.route_to(Ipv6Addr::LOCALHOST.into()), None);
}

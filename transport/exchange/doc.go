// Package exchange moves blocks between nodes with the sync protocol
// (docs/protocol.md).
//
// A Client fetches: a Fetch numbers the blocks of one DAG in the order that all agree on,
// asks several providers at once for what the store lacks, and hands each block, once
// verified, to the store; Get brings a single block that a reader waits for; Survey asks
// who holds a DAG. A Server answers others from a store, and from what a Fetch has
// brought so far. The package does not know who has what: the caller feeds it candidates,
// and decides for how long to wait.
//
// Guarantees: only blocks that match their CID reach the store; a peer that sends
// anything else is dropped, not asked again for an hour, and what it owes goes to
// the others; every length that a peer names is checked before memory is taken.
package exchange

// Package exchange moves blocks between nodes with the sync protocol
// (docs/protocol.md).
//
// A Server answers WANT frames from its store. A Fetch walks one DAG from its
// root, asks several providers at once for what the store lacks, and hands each
// block, once verified, to the store. A Survey asks providers to prove what they hold.
// The package does not know who has what: the caller feeds it candidates, and decides
// for how long to wait.
//
// Guarantees: only blocks that match their CID reach the store; a peer that sends
// anything else is dropped, not asked again for an hour, and its other wants go to
// the others; every length that a peer names is checked before memory is taken.
package exchange

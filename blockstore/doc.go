// Package blockstore keeps blocks on disk.
//
// It owns four things. A Block is bytes together with the CID that they hash
// to; the only ways to make one are to hash bytes or to check them against a
// CID, so a Block in hand is verified. A pack is an append-only file of framed,
// checksummed records, one record a block. An index says where in the packs a
// block lies; it is disposable and rebuilds from the packs alone. The Store ties
// them together.
//
// The package knows CIDs and bytes. It refuses to know what a block means (see
// package dag), which blocks are wanted, and who else holds them.
//
// Guarantees: what Put or Hold.Sync acknowledged survives kill -9 and power
// loss; nothing that fails its hash is ever returned; after a failed sync the
// store stops writing, says why, stays readable, and writes again when the disk
// works; a repair removes no pack that may hold what is needed.
package blockstore

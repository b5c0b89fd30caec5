// Package node is one running mirror: the sites it keeps, the versions it serves,
// its limits and its health.
//
// A Node owns a repository directory. It imports trees, follows others until they
// are whole and goes on holding them, announces what it holds, and answers
// api.Service in process, over the repository's socket (package api) and to
// browsers (package gateway). Which sites those are is in a list that is durable
// before any request is acknowledged.
//
// How blocks are stored (blockstore), what they mean (dag) and how they travel
// (transport) is left to the packages below; no type of libp2p comes up here.
package node

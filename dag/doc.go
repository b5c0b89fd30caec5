// Package dag says how blocks make a site.
//
// It owns the shapes above a block: a [Node] is a dag-pb block decoded into
// links and data; UnixFS gives nodes the meaning of files, directories and
// symlinks; an [Entry] is one of these under its name. [Import] makes blocks of a
// directory on disk, [Extract] makes a directory of blocks, [WriteFile], [List]
// and [Resolve] read single things, and [Walk] names every block below a root in
// the one order that everybody who holds the root agrees on.
//
// Trees are built with the profile unixfs-v1-2025 (IPIP-499), so that a tree gets
// the root that every other IPFS implementation gives it under that profile.
//
// The package is pure: it reads blocks through a [Getter] and writes them through
// a [BlockWriter], knows no network, no store and no names, and leaves no
// goroutine behind. Every node is taken as hostile: memory is bounded by what was
// really received, never by what a node claims; walks are iterative and of bounded
// depth; and nothing is read or written outside the directory named by the caller.
package dag

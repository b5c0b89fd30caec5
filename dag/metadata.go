package dag

import (
	"io/fs"
	"time"
)

// metadata is what UnixFS 1.5 keeps of an inode. It stands in the root node of a file,
// directory or symlink. The zero value is none.
//
// The fields are those that "ipfs add --preserve-mode --preserve-mtime" writes. Their
// place is the same but for the content of files: Kubo puts it into dag-pb nodes then,
// here it stays in raw leaves, so that a tree shares all of them with the same tree
// without metadata, and a file that was touched costs one small node.
type metadata struct {
	// mode is the permissions, with setuid, setgid and sticky bit, numbered as in
	// POSIX: 07777 at most. 0 is not stored, as with Kubo: readers take it for unknown.
	mode    uint32
	modTime time.Time // zero if not known
}

// metadataOf returns the metadata in info. A time that UnixFS cannot express is left
// out, and so is the mode of a symlink, which means nothing and Kubo leaves out too.
func metadataOf(info fs.FileInfo) metadata {
	var m metadata
	if s := info.ModTime().Unix(); minSeconds <= s && s <= maxSeconds {
		m.modTime = info.ModTime()
	}
	mode := info.Mode()
	if mode&fs.ModeSymlink != 0 {
		return m
	}
	m.mode = uint32(mode.Perm())
	for _, bit := range []struct {
		flag fs.FileMode
		mode uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if mode&bit.flag != 0 {
			m.mode |= bit.mode
		}
	}
	return m
}

func (m metadata) isZero() bool { return m.mode == 0 && m.modTime.IsZero() }

// metadata returns what is to be stored of info.
func (im *importer) metadata(info fs.FileInfo) metadata {
	if !im.preserve {
		return metadata{}
	}
	return metadataOf(info)
}

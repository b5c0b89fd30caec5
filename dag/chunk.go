package dag

import (
	"io/fs"
	"sync/atomic"
)

// chunk is a run of bytes of a file that becomes a leaf. It may be stored by another
// worker than the one that has the file.
type chunk struct {
	file   *sourceFile
	off, n int64
	leaf   *part // to be filled in
	row    *row
}

// row is the chunks that one node of a file links to.
type row struct {
	missing atomic.Int64  // chunks that are not stored yet
	done    chan struct{} // closed when all are
}

// putFile stores the regular file called name in d. doubtful says that it is refused
// if its content is secret.
func (w *importWorker) putFile(d *importDir, name string, info fs.FileInfo, doubtful bool) (Link, error) {
	f, err := openFile(d.root.Root, &d.place, name, info)
	if err != nil {
		return Link{}, d.pathError(name, err)
	}
	defer f.Close()
	f.doubtful = doubtful
	p, err := w.putContent(f)
	if err != nil {
		return Link{}, err
	}
	if err := f.checkUnchanged(); err != nil {
		return Link{}, f.pathError(err)
	}
	w.remember(f.info, p.link)
	w.meter.files.Add(1)
	return p.link, nil
}

// putContent stores the content of f, row by row, and returns the file's root.
func (w *importWorker) putContent(f *sourceFile) (part, error) {
	size := f.info.Size()
	if size <= int64(w.chunkSize) {
		return w.putBytes(f, 0, size)
	}
	var nodes []part
	rowSize := int64(w.chunkSize) * int64(w.maxLinks)
	for off := int64(0); off < size; off += rowSize {
		leaves, err := w.putRow(f, off, min(rowSize, size-off))
		if err != nil {
			return part{}, err
		}
		node, err := putFileNode(leaves, w.put)
		if err != nil {
			return part{}, err
		}
		nodes = append(nodes, node)
	}
	return w.joinParts(nodes, w.put)
}

// putRow stores the n bytes of f at off as the leaves of one node. It offers the
// chunks to the other workers and stores those itself that nobody is free for, so
// that one large file keeps all workers busy, and no more chunks are in memory than
// there are workers.
func (w *importWorker) putRow(f *sourceFile, off, n int64) ([]part, error) {
	size := int64(w.chunkSize)
	leaves := make([]part, (n+size-1)/size)
	r := &row{done: make(chan struct{})}
	r.missing.Store(int64(len(leaves)))
	for i := range leaves {
		at := int64(i) * size
		c := chunk{f, off + at, min(size, n-at), &leaves[i], r}
		select {
		case w.chunks <- c:
			continue
		default:
		}
		if err := w.putChunk(c); err != nil {
			return nil, err
		}
	}
	// Until the last of them is stored, help with whatever chunks there are: they
	// may be these, and everybody else may be waiting here too.
	for {
		select {
		case <-r.done:
			return leaves, nil
		case <-w.ctx.Done():
			return nil, w.ctx.Err()
		case c := <-w.chunks:
			if err := w.putChunk(c); err != nil {
				return nil, err
			}
		}
	}
}

func (w *importWorker) putChunk(c chunk) error {
	leaf, err := w.putBytes(c.file, c.off, c.n)
	if err != nil {
		return err
	}
	*c.leaf = leaf
	if c.row.missing.Add(-1) == 0 {
		close(c.row.done)
	}
	return nil
}

// putBytes stores the n bytes of f at off as one leaf.
func (w *importWorker) putBytes(f *sourceFile, off, n int64) (part, error) {
	data, err := f.readAt(off, n)
	if err != nil {
		return part{}, f.pathError(err)
	}
	if off == 0 && f.doubtful && isSecret(f.name, data) {
		return part{}, f.pathError(ErrSecret)
	}
	leaf, err := putLeaf(data, w.put)
	w.meter.bytes.Add(n)
	return leaf, err
}

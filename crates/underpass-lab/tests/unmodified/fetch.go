// Fetches a page by name and prints it: `fetch NAME PATH`.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	connection, err := net.Dial("tcp", os.Args[1]+":80")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintf(connection, "GET %s HTTP/1.0\r\n\r\n", os.Args[2])
	io.Copy(os.Stdout, connection)
}

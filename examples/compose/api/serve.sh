# Process 1 of a container hears SIGTERM only if it asks for it.
trap 'exit 0' TERM
echo "$GREETING from $(hostname), store of $(wget -qO- "$STORE/created")" > /www/index.html
echo ok > /www/health
httpd -f -p 8000 -h /www &
while :; do wait $!; done

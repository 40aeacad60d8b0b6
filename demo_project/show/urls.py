from django.urls import path

from show import views

urlpatterns = [
    path("", views.page, name="show"),
    path("live", views.live, name="live"),
    path("orders", views.place, name="place"),
    path("groups/<slug:group>/send-back", views.send_back, name="send-back"),
    path("stage/<slug:group>/<slug:action>", views.act, name="act"),
]
